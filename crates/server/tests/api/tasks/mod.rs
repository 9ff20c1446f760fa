pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod dependencies;
pub(crate) mod explain;
pub(crate) mod list;
pub(crate) mod rerun;
pub(crate) mod show;
