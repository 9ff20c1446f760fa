//! Which part of its GPU a MIG device is: two calls of NVIDIA's library that `nvml-wrapper` does not wrap.

use nvml_wrapper::{
    Device,
    error::{NvmlError, nvml_sym, nvml_try},
};

/// Ids of the GPU instance and of the compute instance in it that make up a MIG device.
///
/// # Errors
/// `NotSupported` or `InvalidArg` when it is no MIG device; `FailedToLoadSymbol` with a library of before MIG.
pub fn mig_instance(device: &Device<'_>) -> Result<(u32, u32), NvmlError> {
    let library = device.nvml().lib();
    let gpu_instance = nvml_sym(library.nvmlDeviceGetGpuInstanceId.as_ref())?;
    let compute_instance = nvml_sym(library.nvmlDeviceGetComputeInstanceId.as_ref())?;
    let (mut gpu, mut compute) = (0, 0);
    #[expect(
        unsafe_code,
        reason = "the handle is alive as long as the borrowed device, each id is written to its own integer"
    )]
    unsafe {
        nvml_try(gpu_instance(device.handle(), &raw mut gpu))?;
        nvml_try(compute_instance(device.handle(), &raw mut compute))?;
    }
    Ok((gpu, compute))
}
