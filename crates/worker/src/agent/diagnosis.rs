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

/// Makes a failure of the process itself one of GPU memory, when its last words say so and it had a GPU.
pub(crate) fn refine(outcome: &mut Outcome, log: &Path, has_gpus: bool) {
    let own = matches!(outcome.cause, Some(FailureCause::ExitNonzero | FailureCause::Signal));
    if !own || !has_gpus {
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

    fn refined(cause: Option<FailureCause>, log: &[u8], has_gpus: bool) -> Option<FailureCause> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), log).unwrap();
        let mut outcome = Outcome { cause, exit_code: Some(1), ..Outcome::default() };
        refine(&mut outcome, file.path(), has_gpus);
        assert_eq!(outcome.exit_code, Some(1));
        outcome.cause
    }

    #[test]
    fn the_last_words_tell_gpu_memory_from_other_failures() {
        use FailureCause::{ExitNonzero, OomGpu, Timeout};
        let torch = b"Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.\n";
        assert_eq!(refined(Some(ExitNonzero), torch, true), Some(OomGpu));
        // Without a GPU the words are somebody's test data.
        assert_eq!(refined(Some(ExitNonzero), torch, false), Some(ExitNonzero));
        assert_eq!(refined(Some(ExitNonzero), b"ValueError: out of memory lane\n", true), Some(ExitNonzero));
        // It went on after it, or ended for a reason of its own.
        assert_eq!(refined(None, torch, true), None);
        assert_eq!(refined(Some(Timeout), torch, true), Some(Timeout));
        let long_ago = [&torch[..], &vec![b'.'; limits::DIAGNOSIS_TAIL_BYTES as usize]].concat();
        assert_eq!(refined(Some(ExitNonzero), &long_ago, true), Some(ExitNonzero));
        assert_eq!(refined(Some(ExitNonzero), b"\xff\xfeCUDA_ERROR_OUT_OF_MEMORY\xff", true), Some(OomGpu));
    }
}
