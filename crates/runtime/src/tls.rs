//! Cryptography for TLS.

/// Makes `ring` the provider of cryptography for this process, unless there is one. Call it first
/// thing in a program that uses TLS.
pub fn install_tls_provider() {
    // Fails when there is a provider, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
