//! What the end of a failed task's log tells about why it failed, beyond its exit code.

use crate::limits;
use fetchml_api::{FailureCause, link::Outcome};
use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// What libraries say when the memory of a GPU is used up: PyTorch (CUDA and `ROCm`), the CUDA driver and
/// runtime, cuBLAS, and XLA (JAX and TensorFlow).
const GPU_MEMORY: &[&str] = &[
    "CUDA out of memory",
    "HIP out of memory",
    "CUDA error: out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED: Out of memory",
    "RESOURCE_EXHAUSTED: OOM when allocating",
];

/// Says more of a failure of the process itself that had a GPU. One with a `fault` of its GPU is not the
/// task's: its run was lost with the device. One whose last words say so is of GPU memory.
pub(crate) fn refine(outcome: &mut Outcome, log: &Path, fault: Option<String>) {
    if !matches!(outcome.cause, Some(FailureCause::ExitNonzero | FailureCause::Signal)) {
        return;
    }
    if let Some(fault) = fault {
        outcome.cause = Some(FailureCause::Lost);
        outcome.error = Some(format!("the process failed, and its {fault}"));
        return;
    }
    // An unreadable log tells nothing; that it cannot be read is found when it is sent.
    let tail = tail(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    if GPU_MEMORY.iter().any(|words| text.contains(words)) {
        outcome.cause = Some(FailureCause::OomGpu);
        outcome.error = Some(
            "a GPU ran out of memory; use a smaller batch or model, or ask for a GPU with more by gpu_type".to_owned(),
        );
    }
}

fn tail(log: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(log)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(limits::DIAGNOSIS_TAIL_BYTES);
    let mut bytes = vec![0; (length - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refined(cause: Option<FailureCause>, log: &[u8], fault: Option<&str>) -> Option<FailureCause> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), log).unwrap();
        let mut outcome = Outcome { cause, exit_code: Some(1), ..Outcome::default() };
        refine(&mut outcome, file.path(), fault.map(Into::into));
        assert_eq!(outcome.exit_code, Some(1));
        outcome.cause
    }

    #[test]
    fn the_last_words_tell_gpu_memory_from_other_failures() {
        use FailureCause::{ExitNonzero, OomGpu, Timeout};
        let torch = b"Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.\n";
        assert_eq!(refined(Some(ExitNonzero), torch, None), Some(OomGpu));
        assert_eq!(refined(Some(ExitNonzero), b"ValueError: out of memory lane\n", None), Some(ExitNonzero));
        // It went on after it, or ended for a reason of its own.
        assert_eq!(refined(None, torch, None), None);
        assert_eq!(refined(Some(Timeout), torch, None), Some(Timeout));
        let long_ago = [&torch[..], &vec![b'.'; limits::DIAGNOSIS_TAIL_BYTES as usize]].concat();
        assert_eq!(refined(Some(ExitNonzero), &long_ago, None), Some(ExitNonzero));
        assert_eq!(refined(Some(ExitNonzero), b"\xff\xfeCUDA_ERROR_OUT_OF_MEMORY\xff", None), Some(OomGpu));
    }

    #[test]
    fn a_failure_on_a_faulty_gpu_is_not_the_tasks() {
        use FailureCause::{ExitNonzero, Lost, Signal, Timeout};
        let fault = Some("GPU 0 (H100) is unhealthy: it fell off the bus");
        assert_eq!(refined(Some(ExitNonzero), b"CUDA out of memory", fault), Some(Lost));
        assert_eq!(refined(Some(Signal), b"", fault), Some(Lost));
        assert_eq!(refined(None, b"", fault), None, "it ended well all the same");
        assert_eq!(refined(Some(Timeout), b"", fault), Some(Timeout));
    }
}
