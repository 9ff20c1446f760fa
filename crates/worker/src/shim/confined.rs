//! Starting a user's process in a sandbox: a fork of the shim gives up what the worker may do, step by
//! step, and becomes bubblewrap, or [`super::init`] where there is none. A fork, because each step counts
//! for the whole process; of the shim, because bubblewrap dies with the thread that forked it. For a container the fork
//! becomes its runner instead.

use super::{
    bwrap,
    confine::{Confinement, Identity, Layer},
    init::{INIT, InitRequest},
    mounts,
    process::ShimContext,
    supervisor::Sandbox,
    wire::StartRequest,
};
use crate::{
    cgroup::{Cgroup, Cgroups},
    container::{Container, REMOVE, RUNNER},
    executor::ATTEMPT_ID_VARIABLE,
};
use fetchml_fork::Fork;
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::SigSet,
    unistd::{Gid, Uid, execve, setgroups, setresgid, setresuid},
};
use rustix::{
    fs::{AtFlags, CWD, FileType, MemfdFlags, OFlags, chownat, fcntl_setfl, memfd_create, statat},
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Resource, Rlimit, getrlimit, setrlimit},
};
use secrecy::zeroize::Zeroizing;
use std::{
    ffi::{CStr, CString, OsString},
    fs::{self, File},
    io::{self, Seek as _, Write as _},
    os::{
        fd::{IntoRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Starts it; gives the child of the shim that stands for the sandbox, and the sandbox.
pub(super) fn start(
    context: &ShimContext,
    request: &StartRequest,
    confinement: &Confinement,
    log: &File,
) -> io::Result<(Pid, Sandbox)> {
    if let Some(identity) = confinement.identity {
        give(identity, confinement, &request.dir().join(super::files::LOG))?;
    }
    let body = body(request, confinement)?;
    let (hear, speak) = pipe_with(PipeFlags::CLOEXEC)?;
    let create = |cgroups: &Cgroups| cgroups.create(request.attempt, confinement.resources);
    let cgroup = confinement.cgroups.as_ref().map(create).transpose()?;
    match fetchml_fork::fork()? {
        Fork::Parent(pid) => {
            fcntl_setfl(&hear, OFlags::NONBLOCK)?;
            Ok((pid, Sandbox::new(hear, &confinement.layer, cgroup)))
        }
        Fork::Child => {
            let Err(error) = match confinement.container() {
                Some(container) => become_runner(context, container, [&body, log], &speak, &[]),
                None => limit(confinement, cgroup.as_ref())
                    .and_then(|()| become_sandbox(context, confinement, [&body, log], &speak)),
            };
            // Read by the shim, which sees that the sandbox never spoke as one.
            let _ = writeln!(File::from(speak), "{error}");
            std::process::exit(1)
        }
    }
}

fn body(request: &StartRequest, confinement: &Confinement) -> io::Result<File> {
    let mut body = File::from(memfd_create("fetchml-request", MemfdFlags::CLOEXEC)?);
    let inside = InitRequest { program: request.program.clone(), confinement: confinement.clone() };
    body.write_all(&Zeroizing::new(serde_json::to_vec(&inside)?))?;
    body.rewind()?;
    Ok(body)
}

/// Starts what takes a container away that its runner left; gives the child of the shim, and the way to hear it.
pub(super) fn take_away(
    context: &ShimContext,
    request: &StartRequest,
    confinement: &Confinement,
    container: &Container,
) -> io::Result<(Pid, OwnedFd)> {
    let body = body(request, confinement)?;
    let (hear, speak) = pipe_with(PipeFlags::CLOEXEC)?;
    match fetchml_fork::fork()? {
        Fork::Parent(pid) => {
            fcntl_setfl(&hear, OFlags::NONBLOCK)?;
            Ok((pid, hear))
        }
        Fork::Child => {
            let Err(error) = become_runner(context, container, [&body, &context.null], &speak, &[REMOVE]);
            let _ = writeln!(File::from(speak), "{error}");
            std::process::exit(1)
        }
    }
}

/// In the fork. Returns only when it failed.
fn become_runner(
    context: &ShimContext,
    container: &Container,
    [request, log]: [&File; 2],
    speak: &OwnedFd,
    more: &[&str],
) -> io::Result<std::convert::Infallible> {
    let program = stand_by(context, [request, log], speak)?;
    SigSet::empty().thread_set_mask()?;
    let words = [&[program.as_str(), RUNNER], more].concat();
    let words = words.into_iter().map(|word| Ok(CString::new(word)?)).collect::<io::Result<Vec<_>>>()?;
    // By which it is found when the shim is gone.
    let mark = CString::new(format!("{ATTEMPT_ID_VARIABLE}={}", container.attempt))?;
    Err(execve(&words[0], &words, &[mark]).err().map_or_else(io::Error::last_os_error, io::Error::from))
}

/// In the fork: this binary, to be executed with what stands for its three standard files.
fn stand_by(context: &ShimContext, [request, log]: [&File; 2], speak: &OwnedFd) -> io::Result<String> {
    // Above the standard ones, which are replaced below; without the flag, so that it goes through exec.
    let binary = fcntl_dupfd_cloexec(&context.binary, 3)?;
    fcntl_setfd(&binary, FdFlags::empty())?;
    rustix::stdio::dup2_stdin(request)?;
    rustix::stdio::dup2_stdout(log)?;
    rustix::stdio::dup2_stderr(speak)?;
    Ok(format!("/proc/self/fd/{}", binary.into_raw_fd()))
}

/// In the fork: from here on it and all it starts are limited.
fn limit(confinement: &Confinement, cgroup: Option<&Cgroup>) -> io::Result<()> {
    if let Some(cgroup) = cgroup {
        cgroup.join().map_err(|error| said("its limits could not be set", &error))?;
    }
    let resources = confinement.resources;
    let left = confinement.cgroups.as_ref().map_or(resources, |cgroups| cgroups.not_limited(resources));
    if let Some(bytes) = left.memory_bytes {
        lower(Resource::Data, bytes)?;
    }
    // Counted for each user and namespace of users: only one of its own is the task's alone.
    let counts_alone = confinement.identity.is_some() || matches!(confinement.layer, Layer::Bubblewrap(_));
    if let Some(processes) = left.processes.filter(|_| counts_alone) {
        lower(Resource::Nproc, processes.into())?;
    }
    if confinement.layer != Layer::Open {
        // A dump of gigabytes belongs to nobody's output.
        lower(Resource::Core, 0)?;
    }
    Ok(())
}

/// Lowers a limit of this process and all it will start; one that is lower already stays.
fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let most = Some(getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most)));
    setrlimit(resource, Rlimit { current: most, maximum: most })
        .map_err(|error| said("its limits could not be set", &error.into()))
}

/// In the fork. Returns only when it failed.
fn become_sandbox(
    context: &ShimContext,
    confinement: &Confinement,
    files: [&File; 2],
    speak: &OwnedFd,
) -> io::Result<std::convert::Infallible> {
    let program = stand_by(context, files, speak)?;
    if confinement.identity.is_some() {
        mounts::enter(confinement).map_err(|error| said("its files could not be bound", &error))?;
    }
    let init = [program.into(), OsString::from(INIT)];
    let words = match &confinement.layer {
        Layer::Bubblewrap(bwrap) => bwrap::arguments(bwrap, confinement, init),
        Layer::Landlock | Layer::Open => {
            if !confinement.network {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
                    said("its network could not be turned off; install bubblewrap on the worker", &error.into())
                })?;
            }
            init.into()
        }
        // It becomes a runner, and this is not asked for it.
        Layer::Container(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    if let Some(identity) = confinement.identity {
        drop_to(identity).map_err(|error| said("its user could not be set", &error))?;
    }
    if confinement.layer != Layer::Open {
        // After the change of user, so that the keyring is counted as that one's.
        match fetchml_fork::join_new_session_keyring() {
            // Where this process may not use keys, the task may not either: the filter goes on to it.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                return Err(said("the keys of the worker's session could not be left behind", &error));
            }
            _ => {}
        }
    }
    SigSet::empty().thread_set_mask()?;
    let words = words.iter().map(|word| Ok(CString::new(word.as_bytes())?)).collect::<io::Result<Vec<_>>>()?;
    // An empty environment: the loader must not obey the task's variables out here.
    let error = execve::<_, &CStr>(&words[0], &words, &[]).err().map_or_else(io::Error::last_os_error, io::Error::from);
    Err(said(&words[0].to_string_lossy(), &error))
}

fn drop_to(Identity { uid, gid }: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Makes all that the sandbox may write its user's. No user code of the attempt runs yet.
fn give(identity: Identity, confinement: &Confinement, log: &Path) -> io::Result<()> {
    for mount in confinement.mounts.iter().filter(|mount| mount.writable) {
        give_tree(&mount.source, identity).map_err(|error| said(&mount.source.to_string_lossy(), &error))?;
    }
    give_one(log, identity)
}

fn give_tree(path: &Path, identity: Identity) -> io::Result<()> {
    give_one(path, identity)?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                give_tree(&entry.path(), identity)?;
            } else {
                give_one(&entry.path(), identity)?;
            }
        }
    }
    Ok(())
}

/// Never through a link, and nothing that has further names: those may be somebody else's.
fn give_one(path: &Path, Identity { uid, gid }: Identity) -> io::Result<()> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink > 1 {
        return Ok(());
    }
    let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    Ok(chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn said(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
