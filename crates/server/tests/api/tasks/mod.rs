pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod dependencies;
pub(crate) mod explain;
pub(crate) mod list;
mod once;
pub(crate) mod rerun;
pub(crate) mod show;
