//! The fuzz targets' common part: which check a target runs.

#![forbid(unsafe_code)]

mod checks;

/// Runs the check of that name on `data`; it panics if a promise is broken.
///
/// # Panics
/// Also if there is no such check.
pub fn run(name: &str, data: &[u8]) {
    let (_, check) =
        checks::ALL.iter().find(|(known, _)| *known == name).expect("a check of that name");
    check(data);
}
