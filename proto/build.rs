//! Compiles the schemas without `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=levelflow");
    println!("cargo:rerun-if-changed=keda");
    let mut compiler = protox::Compiler::new([std::env::var("CARGO_MANIFEST_DIR")?])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files([
            "levelflow/v1/workflow.proto",
            "levelflow/v1/worker.proto",
            "levelflow/v1/cache.proto",
            "levelflow/v1/cluster.proto",
            "levelflow/v1/autoscale.proto",
            "levelflow/v1/nats.proto",
            "keda/externalscaler.proto",
        ])?;
    let descriptor = PathBuf::from(std::env::var("OUT_DIR")?).join("levelflow.v1.bin");
    std::fs::write(descriptor, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
