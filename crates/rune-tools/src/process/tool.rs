//! What is needed to run a tool of the `process` runtime.

use std::path::PathBuf;
use std::sync::Arc;

use super::grants::ProcessGrants;
use super::reach::Reach;
use crate::egress::EgressPolicy;
use crate::{ToolContext, ToolError};

/// A tool that is a program of the agent's package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTool {
    /// The program or script, as an absolute path.
    pub module: PathBuf,
    /// What it is granted. Without a package it may read its module and nothing else of it.
    pub grants: ProcessGrants,
}

impl ProcessTool {
    /// A tool without any grant.
    pub fn new(module: impl Into<PathBuf>) -> Self {
        Self {
            module: module.into(),
            grants: ProcessGrants::default(),
        }
    }

    /// What a call of it reaches.
    pub(crate) fn reach(
        &self,
        context: &ToolContext,
        egress: &Arc<EgressPolicy>,
    ) -> Result<Reach, ToolError> {
        let gate = context.egress.clone();
        let mut reach = self
            .grants
            .reach(&context.workspace, gate, Arc::clone(egress))?;
        reach.package.get_or_insert_with(|| self.module.clone());
        Ok(reach)
    }
}
