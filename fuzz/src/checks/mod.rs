//! What each fuzz target promises, as a function of any bytes that panics if the promise is broken.
//!
//! Shared by the fuzz targets and, through `tests/it/fuzz_corpus.rs`, by the ordinary tests, which run
//! them over the corpus. Bytes become structure through [`arbitrary::Unstructured`]; a file that is too
//! short reads as zeros, so every file is a valid input.

mod client_frame;
mod frames;
mod op;
mod session;
mod token;
mod wire;

/// A check of any bytes.
pub(crate) type Check = fn(&[u8]);

/// Every check, by the name of its target and of its corpus.
pub(crate) const ALL: [(&str, Check); 6] = [
    ("frames", frames::check),
    ("client_frame", client_frame::check),
    ("session", session::check),
    ("wire", wire::check),
    ("op", op::check),
    ("token", token::check),
];

/// One of some texts, as the input says.
fn choose<'a>(input: &mut arbitrary::Unstructured<'_>, texts: &[&'a str]) -> &'a str {
    input.choose(texts).copied().unwrap_or(texts[0])
}

/// A number from a range, as the input says.
fn number(input: &mut arbitrary::Unstructured<'_>, range: std::ops::RangeInclusive<u32>) -> u32 {
    let low = *range.start();
    input.int_in_range(range).unwrap_or(low)
}
