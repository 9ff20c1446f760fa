//! Landlock: the kernel's own refusal of files, for this process and all that come from it. It can only
//! take away, and needs no privilege.

use super::confine::{Confinement, DEVICES, ETC, Layer, SYSTEM_DIRS};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

/// The newest version whose meaning this code knows; on older kernels what they lack is left out.
const VERSION: ABI = ABI::V6;

/// Whether this kernel has Landlock at all.
pub fn is_available() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}

/// Shuts this process in. Inside bubblewrap or a container a second layer, which says again what may be written; alone
/// it also says what may be read.
pub(super) fn restrict(confinement: &Confinement, log: BorrowedFd<'_>) -> io::Result<()> {
    if confinement.layer == Layer::Open {
        return Ok(());
    }
    let status = rules(confinement, log).map_err(io::Error::other)?;
    if confinement.layer == Layer::Landlock && status == RulesetStatus::NotEnforced {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no Landlock"));
    }
    Ok(())
}

fn rules(confinement: &Confinement, log: BorrowedFd<'_>) -> Result<RulesetStatus, RulesetError> {
    let (all, read) = (AccessFs::from_all(VERSION), AccessFs::from_read(VERSION));
    let mut ruleset =
        Ruleset::default().handle_access(all)?.scope(Scope::from_all(VERSION))?.create()?.no_new_privs(true);
    match confinement.layer {
        Layer::Bubblewrap(_) => {
            ruleset = allow(ruleset, Path::new("/"), read)?;
            // Everything there is the sandbox's own; what must not be changed is mounted read-only.
            for dir in ["/dev", "/proc"] {
                ruleset = allow(ruleset, Path::new(dir), all)?;
            }
        }
        Layer::Container(_) => {
            ruleset = allow(ruleset, Path::new("/"), read)?;
            // Devices may be used, not made: engines leave the directory writable to their root.
            ruleset = allow(ruleset, Path::new("/dev"), AccessFs::from_file(VERSION) | read)?;
            for dir in ["/dev/shm", "/dev/mqueue", "/proc"] {
                ruleset = allow(ruleset, Path::new(dir), all)?;
            }
        }
        Layer::Landlock | Layer::Open => {
            for dir in SYSTEM_DIRS.iter().chain(&["/proc", "/sys"]) {
                ruleset = allow(ruleset, Path::new(dir), read)?;
            }
            for name in ETC {
                ruleset = allow(ruleset, &Path::new("/etc").join(name), read)?;
            }
            let devices = DEVICES.iter().map(PathBuf::from).chain(confinement.devices.iter().cloned());
            for device in devices.chain(["/dev/shm".into(), "/proc/self".into()]) {
                ruleset = allow(ruleset, &device, all)?;
            }
        }
    }
    for mount in confinement.mounts.iter().filter(|mount| !mount.writable) {
        ruleset = allow(ruleset, &mount.target, read)?;
    }
    for target in confinement.writable_targets() {
        ruleset = allow(ruleset, target, all)?;
    }
    // `/dev/stdout` may be opened to append, but not to empty the log: its readers go by offsets.
    let log = PathBeneath::new(log, AccessFs::WriteFile | AccessFs::ReadFile);
    Ok(ruleset.add_rule(log)?.restrict_self()?.ruleset)
}

/// What does not exist needs no permission.
fn allow(ruleset: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(ruleset) };
    // A file has no entries to be made or removed: asking for those would be an error.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(VERSION) };
    ruleset.add_rule(PathBeneath::new(opened, access))
}
