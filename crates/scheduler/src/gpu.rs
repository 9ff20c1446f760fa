//! Names of GPUs: how `gpu_type` is matched against what a driver calls its device.

/// A device name or a wanted type as lower-case tokens: runs of letters and digits.
pub(crate) fn tokens(name: &str) -> Vec<String> {
    name.split(|c: char| !c.is_alphanumeric()).filter(|token| !token.is_empty()).map(str::to_lowercase).collect()
}

/// Whether a device with these tokens is of the wanted type: its tokens stand in the name in a row.
/// Nothing wanted matches every device.
pub(crate) fn matches(device: &[String], wanted: &[String]) -> bool {
    wanted.is_empty() || device.windows(wanted.len()).any(|run| run == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_a_whole_token_in_any_case() {
        for (device, wanted, fits) in [
            ("NVIDIA H100 80GB HBM3", "h100", true),
            ("NVIDIA H100 80GB HBM3", "H10", false),
            ("NVIDIA H100 80GB HBM3", "100", false),
            ("NVIDIA A100-SXM4-80GB", "A100", true),
            ("NVIDIA A100-SXM4-80GB", "a100-sxm4", true),
            ("NVIDIA GeForce RTX 4090", "RTX 4090", true),
            ("NVIDIA GeForce RTX 4090", "GeForce 4090", false),
        ] {
            assert_eq!(matches(&tokens(device), &tokens(wanted)), fits, "{device} for {wanted}");
        }
    }
}
