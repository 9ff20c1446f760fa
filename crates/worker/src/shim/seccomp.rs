//! No further user namespaces in a container: in one a process has every capability over what it makes there, and with
//! them much more of the kernel to try. Bubblewrap turns them off itself; of engines some do and some do not.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};
use std::{collections::BTreeMap, io};

/// Set in the numbers of calls by the ABI of 32-bit pointers, which counts as the same architecture.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: &[i64] = &[0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const OTHER_NUMBERS: &[i64] = &[0];

/// Forbids them to this process and all that come from it.
pub(super) fn forbid_user_namespaces() -> io::Result<()> {
    // Where filters cannot be built the engine's own is all there is.
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    let new_user = libc::CLONE_NEWUSER as u64;
    let asks_for_one = || {
        let masked = SeccompCmpOp::MaskedEq(new_user);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, masked, new_user);
        condition.and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let forbid = || -> Result<(), seccompiler::Error> {
        let mut by_flag = BTreeMap::new();
        for number in [libc::SYS_unshare, libc::SYS_clone] {
            for other in OTHER_NUMBERS {
                by_flag.insert(number | other, vec![asks_for_one()?]);
            }
        }
        // Its flags lie in memory, where no filter looks: libraries go back to `clone` when it is missing.
        let missing = OTHER_NUMBERS.iter().map(|other| (libc::SYS_clone3 | other, Vec::new())).collect();
        for (rules, error) in [(by_flag, libc::EPERM), (missing, libc::ENOSYS)] {
            let refuse = SeccompAction::Errno(error.unsigned_abs());
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?;
            apply_filter(&BpfProgram::try_from(filter)?)?;
        }
        Ok(())
    };
    forbid().map_err(|error| io::Error::other(format!("user namespaces cannot be forbidden: {error}")))
}
