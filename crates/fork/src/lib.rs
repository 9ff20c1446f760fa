//! `fork` as a safe function for a process that is known to have one thread, two ways to leave behind
//! what a process inherited (closing descriptors on exec, and a new session keyring), and [`mig_instance`].
//! The only `unsafe` code of the project; it must stay this small.
//!
//! Forking is unsafe in general because the child of a process with several threads may use nothing
//! but async-signal-safe functions: another thread may have held a lock (the allocator's, say) at
//! the moment of the fork. With one thread there is no such lock, so [`fork`] counts the threads
//! first and refuses when there is more than one.

mod mig;

pub use mig::mig_instance;

use rustix::process::Pid;
use std::io;

/// Which side of the fork this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The process that called [`fork`], with the id of the new one.
    Parent(Pid),
}

/// Forks this process, which must have exactly one thread.
///
/// # Errors
/// `EAGAIN` or `ENOMEM` from the system; `Unsupported` when the process has more than one thread.
pub fn fork() -> io::Result<Fork> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("fork needs a process with one thread; this one has {threads}"),
        ));
    }
    #[expect(unsafe_code, reason = "fork; sound because the process has one thread, as checked above")]
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Marks every descriptor above standard error to be closed on exec, also those that this process
/// inherited without knowing.
///
/// # Errors
/// `ENOSYS` or `EINVAL` on kernels before 5.11.
pub fn close_on_exec_above_stderr() -> io::Result<()> {
    #[expect(unsafe_code, reason = "close_range only sets a flag here: no descriptor is closed or reused")]
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the keyring of the session that this process was started in for a new, empty one of its own,
/// which what it starts will have too: a login may have left tickets in the old one.
///
/// # Errors
/// `ENOSYS` on kernels without keyrings; `EDQUOT` when the user has too many keys.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    #[expect(unsafe_code, reason = "keyctl reads no memory when the name is null")]
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Threads of this process: the link count of `/proc/self/task` is theirs plus two, which costs
/// one system call instead of reading a directory.
fn thread_count() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness runs each test on a thread of its own beside the main one.
        assert_eq!(fork().unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
