//! The versions of the specification, oldest first.

use super::error::{Code, Error, Result};

/// A supported version of the CNI specification. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // the digits are the name
pub enum SpecVersion {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl SpecVersion {
    /// Every version, oldest first.
    pub(crate) const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest supported version.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    /// The version as a config's `cniVersion` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Parses a `cniVersion`. None, or an empty one, means 0.1.0 (specification, section 1).
    ///
    /// # Errors
    /// Code 1, with the list of supported versions.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Self::V0_1_0);
        };
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|v| v.as_str()).collect();
                Error::new(
                    Code::IncompatibleVersion,
                    format!("cniVersion {text:?} is not supported"),
                )
                .hint(format!("supported versions: {}", known.join(", ")))
            })
    }
}

impl std::fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back_as_itself() {
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::parse(Some(version.as_str())).unwrap(), version);
        }
    }

    #[test]
    fn no_version_means_the_oldest() {
        assert_eq!(SpecVersion::parse(None).unwrap(), SpecVersion::V0_1_0);
        assert_eq!(SpecVersion::parse(Some("")).unwrap(), SpecVersion::V0_1_0);
    }

    #[test]
    fn an_unknown_version_is_code_1_and_lists_the_known() {
        let err = SpecVersion::parse(Some("9.9.9")).unwrap_err();
        assert_eq!(err.code, Code::IncompatibleVersion);
        assert!(err.details.contains("0.1.0") && err.details.contains("1.1.0"));
    }
}
