pub(crate) mod drain;
pub(crate) mod priority;
pub(crate) mod reservations;
pub(crate) mod status;
pub(crate) mod stream;
pub(crate) mod workers;
