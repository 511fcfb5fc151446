//! Calls into code of the user's: a panic there is an answer like others.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `f`; a panic becomes its message.
#[inline]
pub(super) fn guarded<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    // What a panic leaves half done is the user's own, and is dropped: a connection that panicked is closed.
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "a value that is no text".to_owned(),
        };
        // What was thrown may throw again when it is dropped; then it is leaked rather than let out.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
        message
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(guarded(|| 3), Ok(3));
        assert_eq!(guarded(|| panic!("a {}", 1)), Err::<(), _>("a 1".into()));
        assert_eq!(guarded(|| panic!("b")), Err::<(), _>("b".into()));
        let thrown = guarded(|| std::panic::panic_any(Bomb));
        assert_eq!(thrown, Err::<(), _>("a value that is no text".into()));
    }
}
