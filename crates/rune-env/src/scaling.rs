//! How deployments are scaled whose version has a range of replicas.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::error::ConfigError;
use crate::resolve::Resolved;

/// `[scaling]`: how many replicas run between `min_replicas` and `max_replicas` of a Runefile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalingConfig {
    /// `RUNE_SCALING_TARGET_PERCENT`: how much of what replicas take at the same time is to be used, 1 to 100.
    pub target_percent: u32,
    /// `RUNE_SCALING_DOWN_AFTER_SECS`: how long fewer replicas have to be enough before there are fewer.
    pub down_after: Duration,
    /// `RUNE_SCALING_ZERO_AFTER_SECS`: how long nothing has to be done before the last replica goes.
    pub zero_after: Duration,
}

impl Default for ScalingConfig {
    fn default() -> Self {
        Self {
            target_percent: 70,
            down_after: Duration::from_mins(1),
            zero_after: Duration::from_mins(5),
        }
    }
}

impl ScalingConfig {
    pub(crate) fn read(resolved: &Resolved) -> Result<Self, ConfigError> {
        let default = Self::default();
        let positive = |text: &str| text.parse::<NonZeroU32>().ok().map(NonZeroU32::get);
        let secs = |key| -> Result<Option<Duration>, ConfigError> {
            let secs = resolved.parse(key, positive)?;
            Ok(secs.map(|secs| Duration::from_secs(secs.into())))
        };
        let percent = resolved.parse("scaling.target_percent", |text| {
            positive(text).filter(|percent| *percent <= 100)
        })?;
        Ok(Self {
            target_percent: percent.unwrap_or(default.target_percent),
            down_after: secs("scaling.down_after_secs")?.unwrap_or(default.down_after),
            zero_after: secs("scaling.zero_after_secs")?.unwrap_or(default.zero_after),
        })
    }
}
