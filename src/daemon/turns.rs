//! Turns: of those who are about the same thing at once, one goes after the other, in the order in which they came.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Held by whoever has his turn.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// Who is about what.
pub(crate) struct Turns<K>(RefCell<HashMap<K, Arc<Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits until nobody else is about it.
    pub(super) async fn take(&self, about: K) -> Turn {
        let turn = {
            let mut all = self.0.borrow_mut();
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(all.entry(about).or_default())
        };
        turn.lock_owned().await
    }
}
