//! What the owner of a worker allows of data sets: flags, and the settings they make.

use crate::{
    environment,
    failure::Failure,
    quantity,
    settings::{Flags, WorkerSettings},
};
use clap::Args;
use fetchml_worker::staging::{AllowedBucket, DatasetSettings, StoreSettings};
use ipnet::IpNet;
use std::{net::IpAddr, path::PathBuf};

/// Flags of everything that contains a worker.
#[derive(Args, Debug)]
pub(super) struct DatasetFlags {
    /// Directory of this machine from which tasks may take files as file:// data sets; may be repeated [env: FETCHML_DATASET_DIRS] [default: none]
    #[arg(long = "dataset-dir", value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Network that data sets may be fetched from though it is not public, such as 10.0.0.0/8; may be repeated [env: FETCHML_DATASET_ALLOW_NET] [default: none]
    #[arg(long = "dataset-allow-net", value_name = "CIDR")]
    nets: Vec<String>,
    /// Bucket, or part of one, that tasks may read as s3:// data sets with this worker's credentials (the usual AWS_... variables), such as s3://lab-data/train; may be repeated [env: FETCHML_DATASET_STORES] [default: none]
    #[arg(long = "dataset-store", value_name = "URL")]
    stores: Vec<String>,
    /// Most that data sets may take on disk, GiB or with a unit (500, 2T) [env: FETCHML_DATASET_CACHE] [default: half of the disk]
    #[arg(long = "dataset-cache", value_name = "SIZE")]
    cache_size: Option<String>,
}

impl DatasetFlags {
    pub(super) fn add_to(&self, flags: Flags) -> Flags {
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        let joined = |list: String| (!list.is_empty()).then_some(list);
        flags
            .set("worker.dataset_dirs", "--dataset-dir", joined(dirs.join(":")))
            .set("worker.dataset_allow_net", "--dataset-allow-net", joined(self.nets.join(",")))
            .set("worker.dataset_stores", "--dataset-store", joined(self.stores.join(",")))
            .set("worker.dataset_cache", "--dataset-cache", self.cache_size.clone())
    }
}

/// The settings in the worker's own terms.
pub(super) fn of(settings: &WorkerSettings) -> Result<DatasetSettings, Failure> {
    let directories = list(settings.dataset_dirs.as_ref(), ':').map(directory).collect::<Result<_, _>>()?;
    let allowed_nets = nets("--dataset-allow-net", settings.dataset_allow_net.as_ref())?;
    let allowed = list(settings.dataset_stores.as_ref(), ',').map(bucket).collect::<Result<_, _>>()?;
    let stores = StoreSettings { allowed, variables: environment::of_object_stores() };
    let cache_bytes = settings.dataset_cache.as_deref().map(quantity::parse_size).transpose();
    let cache_bytes = cache_bytes.map_err(|why| Failure::usage(format!("worker.dataset_cache: {why}")))?;
    Ok(DatasetSettings { directories, allowed_nets, stores, cache_bytes, ..DatasetSettings::default() })
}

fn list(text: Option<&String>, separator: char) -> impl Iterator<Item = &str> {
    text.map_or("", String::as_str).split(separator).map(str::trim).filter(|part| !part.is_empty())
}

fn directory(text: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(Failure::usage(format!("--dataset-dir {text:?} must be an absolute path")));
    }
    if !path.is_dir() {
        return Err(Failure::usage(format!("--dataset-dir {text} is not a directory")));
    }
    Ok(path)
}

/// Networks, commas between, of a setting with this flag.
pub(super) fn nets(flag: &str, text: Option<&String>) -> Result<Vec<IpNet>, Failure> {
    list(text, ',').map(|text| net(flag, text)).collect()
}

fn net(flag: &str, text: &str) -> Result<IpNet, Failure> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        Failure::usage(format!("{flag} {text:?} is not a network"))
            .hint("write an address and the length of its prefix, such as 10.0.0.0/8 or 192.168.1.7/32")
    })
}

fn bucket(text: &str) -> Result<AllowedBucket, Failure> {
    text.parse().map_err(|why| {
        Failure::usage(format!("--dataset-store: {why}"))
            .hint("write s3://BUCKET or s3://BUCKET/PREFIX; the address of the store goes into AWS_ENDPOINT_URL")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_directories_are_read_or_refused() {
        assert_eq!(net("--flag", "10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(net("--flag", "192.168.1.7").unwrap().to_string(), "192.168.1.7/32");
        assert!(net("--flag", "10.0.0.0/40").is_err() && net("--flag", "lab").is_err());
        assert_eq!(bucket("s3://lab-data/train").unwrap().bucket(), "lab-data");
        assert!(bucket("lab-data").is_err() && bucket("https://lab/data").is_err());
        assert!(directory("data").is_err() && directory("/nonexistent/dir").is_err());
        assert_eq!(list(Some(&"/a: /b:".to_owned()), ':').collect::<Vec<_>>(), ["/a", "/b"]);
    }
}
