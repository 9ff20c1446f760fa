//! Where builders run. A build runs code of packages that a user chose, so that it is kept in its place as a task is: it
//! sees its sources, its environment, and a home that nobody else has. The network it needs; its caches it has not from
//! others, and leaves none to them.

use super::{requirements::Requirements, tools::Python};
use crate::{
    cgroup::Resources,
    isolation::Sandboxes,
    limits,
    shim::{Confinement, Mount},
};
use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

/// Variables by which a site names its mirrors, proxies and certificates; and what every program needs.
const NAMES: [&str; 11] = [
    "PATH",
    "LANG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
];
const PREFIXES: [&str; 3] = ["PIP_", "UV_", "SSL_CERT_"];
/// What leads to places of the worker's own user.
const OWN_PLACES: [&str; 5] = ["HOME", "USER", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"];
/// Places to write to, which a sandbox has of its own.
const OWN_STORES: [&str; 5] = ["PIP_CACHE_DIR", "UV_CACHE_DIR", "UV_PYTHON_INSTALL_DIR", "UV_TOOL_DIR", "UV_LINK_MODE"];
/// Of the machine: settings of pip and uv, what it is called, and kinds of files, which pip must be able to read where
/// they are there.
const OF_MACHINE: [&str; 8] = [
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/etc/uv",
    "/etc/debian_version",
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/mime.types",
    "/etc/apache2/mime.types",
];

/// The places of one build.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// The environment that is built.
    pub(super) root: &'a Path,
    /// A scratch directory of this build.
    pub(super) work: &'a Path,
    /// Where the snapshot's files lie.
    pub(super) snapshot: &'a Path,
    /// Where a uv that FetchML installed lies.
    pub(super) own_uv: &'a Path,
}

impl Places<'_> {
    fn sources(&self) -> PathBuf {
        Requirements::sources(self.work)
    }

    fn home(&self) -> PathBuf {
        self.work.join("home")
    }

    fn tmp(&self) -> PathBuf {
        self.work.join("tmp")
    }

    /// Makes them.
    pub(super) fn create(&self) -> io::Result<()> {
        [self.root, &self.sources(), &self.home(), &self.tmp()].into_iter().try_for_each(fs::create_dir_all)
    }

    /// Where builders are started: where only what was hashed lies, unless code of the snapshot belongs to it.
    pub(super) fn cwd(&self, wanted: &Requirements) -> PathBuf {
        if wanted.has_local_code() { self.snapshot.to_owned() } else { self.sources() }
    }

    /// What keeps builders in their place, if anything does here.
    pub(super) fn confinement(
        &self,
        sandboxes: &Sandboxes,
        slot: u32,
        wanted: &Requirements,
        python: &Python,
        uv: Option<&Path>,
    ) -> Option<Confinement> {
        let tmp = Mount::writable(self.tmp());
        let mut mounts = vec![if sandboxes.remaps() { tmp.at("/tmp") } else { tmp }];
        mounts.extend([self.root.to_owned(), self.sources(), self.home()].map(Mount::writable));
        if wanted.has_local_code() {
            mounts.push(Mount::writable(self.snapshot));
        }
        let mut shown: Vec<PathBuf> = python.prefixes.clone();
        shown.extend(uv.map(Path::to_owned));
        shown.push(self.own_uv.to_owned());
        shown.extend(OF_MACHINE.map(PathBuf::from));
        shown.extend(own_settings().into_iter().flat_map(|dir| ["pip", "uv"].map(|name| dir.join(name))));
        shown.extend(named_by_variables(self.work));
        shown.retain(|path| path.exists() && !is_system(path));
        mounts.extend(shown.into_iter().map(Mount::read_only));
        let resources = Resources { processes: Some(limits::BUILDER_PROCESSES), ..Resources::default() };
        sandboxes.confine_builder(slot, mounts, resources)
    }

    /// The variables of a builder: few, and in a sandbox none that leads to the worker's own places.
    pub(super) fn variables(&self, confinement: Option<&Confinement>, remaps: bool) -> Vec<(OsString, OsString)> {
        let mut all = settings();
        if confinement.is_none() {
            // The caches of pip and uv are the worker's own.
            all.extend(OWN_PLACES.iter().filter_map(|name| Some(((*name).into(), env::var_os(name)?))));
            return all;
        }
        all.retain(|(name, _)| !OWN_STORES.iter().any(|store| name == store));
        let mut set = |name: &str, value: OsString| all.push((name.into(), value));
        set("HOME", self.home().into());
        set("USER", "fetchml".into());
        set("TMPDIR", if remaps { "/tmp".into() } else { self.tmp().into() });
        // What has further names elsewhere could be changed there.
        set("UV_LINK_MODE", "copy".into());
        if let Some(settings) = own_settings() {
            set("XDG_CONFIG_HOME", settings.into());
        }
        all
    }
}

/// Of the worker's own variables, those that every builder gets.
fn settings() -> Vec<(OsString, OsString)> {
    let wanted = |name: &str| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    env::vars_os().filter(|(name, _)| name.to_str().is_some_and(wanted)).collect()
}

/// Where pip and uv look for the worker's own settings.
fn own_settings() -> Option<PathBuf> {
    let set = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".config")))
}

/// Files and directories that settings name, such as of certificates and of packages.
fn named_by_variables(work: &Path) -> impl Iterator<Item = PathBuf> {
    let values = settings().into_iter().filter(|(name, _)| name != "PATH" && !OWN_STORES.iter().any(|own| name == own));
    values.filter_map(move |(_, value)| {
        let text = value.into_string().ok()?;
        let path = PathBuf::from(text.strip_prefix("file://").unwrap_or(&text));
        // Nothing that holds the worker's own data.
        (path.is_absolute() && !work.starts_with(&path)).then_some(path)
    })
}

/// Whether every sandbox shows it anyway.
fn is_system(path: &Path) -> bool {
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/etc/ssl/certs"]
        .iter()
        .any(|dir| path.starts_with(dir))
}
