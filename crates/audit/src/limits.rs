//! Every limit of this crate: what is longer is refused, never cut.

/// Longest body of an event, bytes.
pub const BODY_BYTES: usize = 4 << 20;
/// Longest line of an export, bytes without its newline: a body whose every byte takes two, and what stands around it.
pub const LINE_BYTES: usize = 2 * BODY_BYTES + 1_024;
/// Longest signed note, bytes.
pub const NOTE_BYTES: usize = 64 << 10;
/// Most signatures of a note.
pub const NOTE_SIGNATURES: usize = 16;
/// Longest name of a key, bytes.
pub const KEY_NAME_BYTES: usize = 256;
/// Most keys that the header of an export lists.
pub const EXPORT_KEYS: usize = 256;
