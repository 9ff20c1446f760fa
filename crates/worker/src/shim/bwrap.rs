//! The command line of bubblewrap for a [`Confinement`]. It only says what bubblewrap is to do.

use super::confine::{Confinement, ETC, SYSTEM_DIRS};
use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

/// Arguments, the program's own name first; `command` runs inside as process 1.
pub(super) fn arguments(
    bwrap: &Path,
    confinement: &Confinement,
    command: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let mut words = Words(vec![bwrap.into()]);
    // A namespace of users even for root, whose identity was dropped before: the process has no
    // capability outside it and, by --disable-userns, can make no further one.
    words.flags(&["--unshare-user", "--disable-userns", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]);
    words.flags(&["--unshare-cgroup-try", "--as-pid-1", "--new-session", "--die-with-parent"]);
    words.flags(&["--cap-drop", "ALL", "--clearenv"]);
    if !confinement.network {
        words.flags(&["--unshare-net"]);
    }
    for dir in SYSTEM_DIRS {
        match fs::read_link(dir) {
            Ok(target) => words.push("--symlink", &[target.as_os_str(), dir.as_ref()]),
            Err(_) => words.push("--ro-bind-try", &[dir, dir]),
        }
    }
    words.flags(&["--dir", "/etc"]);
    for name in ETC {
        let path = Path::new("/etc").join(name);
        // The file itself, wherever a link leads: the link's target is not in the sandbox.
        let source = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        words.push("--ro-bind-try", &[source, path]);
    }
    words.flags(&["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]);
    for device in &confinement.devices {
        words.push("--dev-bind-try", &[device, device]);
    }
    if !confinement.devices.is_empty() {
        // How devices hang together: libraries of GPUs read it.
        words.push("--ro-bind-try", &["/sys", "/sys"]);
    }
    words.flags(&["--dir", "/tmp", "--dir", "/var", "--symlink", "../tmp", "/var/tmp", "--dir", "/run"]);
    for mount in &confinement.mounts {
        let bind = if mount.writable { "--bind" } else { "--ro-bind" };
        words.push(bind, &[&mount.source, &mount.target]);
    }
    words.flags(&["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"]);
    words.0.extend(command);
    words.0
}

struct Words(Vec<OsString>);

impl Words {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn push<const N: usize>(&mut self, option: &str, values: &[impl AsRef<OsStr>; N]) {
        self.0.push(option.into());
        self.0.extend(values.iter().map(|value| value.as_ref().to_owned()));
    }
}

/// Where bubblewrap is, if it is.
pub fn find() -> Option<PathBuf> {
    ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroup::Resources,
        shim::confine::{Layer, Mount},
    };

    #[test]
    fn what_is_asked_for_stands_in_the_arguments_and_nothing_more() {
        let mut confinement = Confinement {
            layer: Layer::Landlock,
            identity: None,
            mounts: vec![Mount::read_only("/data/set").at("/data"), Mount::writable("/w")],
            devices: vec!["/dev/nvidia3".into()],
            network: true,
            resources: Resources::default(),
            cgroups: None,
            hidden: "/x".into(),
        };
        let text = |confinement: &Confinement| {
            let words = arguments(Path::new("/usr/bin/bwrap"), confinement, ["init".into()]);
            words.join(OsStr::new(" ")).into_string().unwrap()
        };
        let on = text(&confinement);
        for part in ["--ro-bind /data/set /data ", "--bind /w /w ", "--dev-bind-try /dev/nvidia3 ", "--unshare-user "] {
            assert!(on.contains(part), "{part}: {on}");
        }
        assert!(on.ends_with("--remount-ro / --chdir / -- init"));
        assert!(!on.contains("--unshare-net") && !on.contains("shadow"));
        confinement.network = false;
        assert!(text(&confinement).contains("--unshare-net"));
    }
}
