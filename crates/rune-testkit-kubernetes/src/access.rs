//! Who asks, and what they may: bearer tokens and role-based access control.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use uuid::Uuid;

use crate::object::{list, text};
use crate::resource::{Resource, named};
use crate::store::{Key, Store};

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    /// Namespace and name, where it is a service account.
    account: Option<(String, String)>,
}

impl Identity {
    fn admin() -> Self {
        Self {
            user: "kubernetes-admin".to_owned(),
            groups: vec![MASTERS.to_owned()],
            account: None,
        }
    }

    fn account(namespace: &str, name: &str) -> Self {
        Self {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            account: Some((namespace.to_owned(), name.to_owned())),
        }
    }
}

/// The tokens that are valid.
#[derive(Debug)]
pub(crate) struct Tokens {
    admin: String,
    accounts: HashMap<String, Identity>,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self {
            admin: Uuid::new_v4().simple().to_string(),
            accounts: HashMap::new(),
        }
    }

    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// A new token of a service account.
    pub(crate) fn issue(&mut self, namespace: &str, name: &str) -> String {
        let token = Uuid::new_v4().simple().to_string();
        let identity = Identity::account(namespace, name);
        self.accounts.insert(token.clone(), identity);
        token
    }

    /// Whose token it is, as long as the account is there.
    pub(crate) fn identify(&self, store: &Store, token: &str) -> Option<Identity> {
        if token == self.admin {
            return Some(Identity::admin());
        }
        let found = self.accounts.get(token)?;
        let (namespace, name) = found.account.as_ref()?;
        let accounts = named("serviceaccounts")?;
        store.get(&Key::new(accounts, namespace, name))?;
        Some(found.clone())
    }
}

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The user's name, such as `system:serviceaccount:rune:rune`.
    pub user: String,
    /// The verb, such as `list`.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource with its subresource, such as `pods/log`.
    pub resource: String,
    /// The namespace; empty for all, and for what has none.
    pub namespace: String,
    /// Whether a role allows it.
    pub is_allowed: bool,
}

/// Everything that was asked for, each once.
#[derive(Debug, Default)]
pub(crate) struct AccessLog(BTreeSet<Access>);

impl AccessLog {
    pub(crate) fn note(&mut self, access: Access) {
        self.0.insert(access);
    }

    pub(crate) fn of(&self, user: &str) -> Vec<Access> {
        let of = self.0.iter().filter(|access| access.user == user);
        of.cloned().collect()
    }
}

/// What is asked for, of which a rule may allow it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// With its subresource.
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Request<'_> {
    /// Whether a role that is bound to this identity allows it.
    pub(crate) fn is_allowed(&self, store: &Store, identity: &Identity) -> bool {
        identity.groups.iter().any(|group| group == MASTERS)
            || self.bindings(store, "clusterrolebindings", None, identity)
            || (!self.namespace.is_empty()
                && self.bindings(store, "rolebindings", Some(self.namespace), identity))
    }

    fn bindings(
        &self,
        store: &Store,
        plural: &str,
        namespace: Option<&str>,
        identity: &Identity,
    ) -> bool {
        let Some(resource) = named(plural) else {
            return false;
        };
        store.list(resource, namespace).any(|(_, binding)| {
            let subjects = list(binding, "/subjects");
            subjects.iter().any(|s| is_subject(s, namespace, identity))
                && self.role(store, binding, namespace)
        })
    }

    fn role(&self, store: &Store, binding: &Value, namespace: Option<&str>) -> bool {
        let (plural, namespace) = match text(binding, "/roleRef/kind") {
            "Role" => ("roles", namespace.unwrap_or("")),
            _ => ("clusterroles", ""),
        };
        let name = text(binding, "/roleRef/name");
        let role = named(plural).and_then(|r: &Resource| store.get(&Key::new(r, namespace, name)));
        let rules = role.map_or(&[][..], |role| list(role, "/rules"));
        rules.iter().any(|rule| self.rule(rule))
    }

    fn rule(&self, rule: &Value) -> bool {
        let has = |field: &str, wanted: &str| {
            list(rule, field).iter().any(|is| is == wanted || is == "*")
        };
        let names = list(rule, "/resourceNames");
        has("/verbs", self.verb)
            && has("/apiGroups", self.group)
            && has("/resources", self.resource)
            && (names.is_empty() || names.iter().any(|name| name == self.name))
    }
}

fn is_subject(subject: &Value, binding_namespace: Option<&str>, identity: &Identity) -> bool {
    let name = text(subject, "/name");
    match text(subject, "/kind") {
        "User" => identity.user == name,
        "Group" => identity.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let namespace = match text(subject, "/namespace") {
                "" => binding_namespace.unwrap_or(""),
                given => given,
            };
            let account = identity.account.as_ref();
            account.is_some_and(|(of, is)| of == namespace && is == name)
        }
        _ => false,
    }
}
