//! Both ends of a benchmark need one file descriptor per connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a benchmark asks for at most.
const WANTED: u64 = 1 << 20;

/// Raises the limit on open files as far as this process may; returns the limit now in force.
pub fn raise_limit() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(u64::MAX);
    for (current, maximum) in [(WANTED, hard.max(WANTED)), (hard.min(WANTED), hard)] {
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return current;
        }
    }
    now.current.unwrap_or(u64::MAX)
}
