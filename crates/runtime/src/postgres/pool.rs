//! Connections that are kept open for the next request.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, RecyclingMethod, Runtime};
use tokio_postgres::NoTls;

use super::address::Address;

/// Why there is no connection.
pub use deadpool_postgres::PoolError;

/// Connections to one database.
#[derive(Clone)]
pub struct Pool(deadpool_postgres::Pool);

/// A connection of a pool. Unless it is given back it is closed when it is dropped, because something may
/// still be under way on it.
pub struct Connection(Option<Object>);

impl Pool {
    /// A pool of at most so many connections. Nothing is connected yet. Who waits for a connection, or for
    /// a new one to be made, waits no longer than `timeout`.
    pub fn new(address: Address, max_connections: usize, timeout: Duration) -> Self {
        let Address { mut config, tls } = address;
        config.connect_timeout(timeout);
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match tls {
            Some(tls) => Manager::from_config(config, tls, recycling),
            None => Manager::from_config(config, NoTls, recycling),
        };
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(max_connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(timeout))
            .create_timeout(Some(timeout))
            .build()
            .expect("timeouts have the runtime that they need");
        Self(pool)
    }

    /// A connection that nobody else uses.
    ///
    /// # Errors
    /// When all are in use for too long, or the database cannot be reached.
    pub async fn get(&self) -> Result<Connection, PoolError> {
        self.0.get().await.map(|object| Connection(Some(object)))
    }

    /// Closes the connections that are not in use, and gives out no more.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Connection {
    /// Lets others have it: nothing is under way on it.
    pub fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Connection {
    type Target = deadpool_postgres::Client;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("it is taken when this is dropped")
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_mut().expect("it is taken when this is dropped")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
