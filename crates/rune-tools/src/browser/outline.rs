//! A page as text: its accessibility tree, with numbers on what can be used.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use crate::text;

/// Lines of one page at the most.
const MAX_LINES: usize = 20_000;
/// Nodes inside each other at the most; what is deeper is left out.
const MAX_LEVEL: usize = 200;
/// Bytes of a name, a value or a text.
const NAME_BYTES: usize = 400;
const TEXT_BYTES: usize = 4000;

/// Roles that can be used, whether or not they say that they take the focus.
const USABLE: [&str; 17] = [
    "button",
    "checkbox",
    "combobox",
    "link",
    "listbox",
    "menuitem",
    "menuitemcheckbox",
    "menuitemradio",
    "radio",
    "searchbox",
    "slider",
    "spinbutton",
    "switch",
    "tab",
    "textbox",
    "textField",
    "treeitem",
];
/// Roles that say nothing where they have no name.
const PLAIN: [&str; 12] = [
    "generic",
    "none",
    "presentation",
    "paragraph",
    "group",
    "strong",
    "emphasis",
    "code",
    "mark",
    "time",
    "rowgroup",
    "section",
];
/// Roles whose parts say nothing more.
const WHOLE: [&str; 7] = [
    "image",
    "progressbar",
    "scrollbar",
    "searchbox",
    "slider",
    "spinbutton",
    "textbox",
];
/// What a node may say of its state.
const STATES: [&str; 11] = [
    "checked", "selected", "expanded", "pressed", "disabled", "required", "invalid", "readonly",
    "focused", "level", "modal",
];

/// The accessibility tree of one frame, as the browser sends it.
#[derive(Debug, Deserialize)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    node_id: String,
    parent_id: Option<String>,
    #[serde(default)]
    ignored: bool,
    role: Option<Said>,
    name: Option<Said>,
    value: Option<Said>,
    #[serde(default)]
    properties: Vec<Property>,
    #[serde(default)]
    child_ids: Vec<String>,
    #[serde(rename = "backendDOMNodeId")]
    dom: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(default)]
    value: Value,
}

#[derive(Debug, Deserialize)]
struct Property {
    name: String,
    value: Said,
}

/// One line of an outline.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    depth: usize,
    /// The node that a reader may want to use.
    pub(super) node: Option<i64>,
    text: String,
    is_text: bool,
}

/// The outline of a page: the tree of its main frame, and those of frames inside it by the node that holds them.
pub(super) fn outline(main: &Tree, inner: &HashMap<i64, Tree>) -> Vec<Line> {
    let mut writer = Writer {
        inner,
        lines: Vec::new(),
        is_open: false,
    };
    writer.tree(main, 0, 0);
    writer.lines
}

/// The outline as text; `numbers` of the nodes that can be used.
pub(super) fn render(lines: &[Line], numbers: &HashMap<i64, u32>) -> String {
    let mut out = String::new();
    for line in lines {
        let indent = line.depth.min(20) * 2;
        let number = line.node.and_then(|node| numbers.get(&node));
        let number = number.map_or_else(String::new, |number| format!("[{number}] "));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:indent$}{number}{}", "", line.text);
    }
    out
}

/// The outline of a tree as the browser sends it, each usable node with a number in order. `None` where it is none.
#[must_use]
pub fn page_outline(json: &[u8]) -> Option<String> {
    let tree: Tree = serde_json::from_slice(json).ok()?;
    let lines = outline(&tree, &HashMap::new());
    let nodes = lines.iter().filter_map(|line| line.node);
    let numbers = (1..).zip(nodes).map(|(number, node)| (node, number));
    Some(render(&lines, &numbers.collect()))
}

impl Node {
    fn role(&self) -> &str {
        said(self.role.as_ref()).unwrap_or_default()
    }

    fn name(&self) -> String {
        let name = said(self.name.as_ref()).unwrap_or_default();
        one_line(name, NAME_BYTES)
    }

    fn property(&self, name: &str) -> Option<&Value> {
        let mut found = self.properties.iter().filter(|one| one.name == name);
        found.next().map(|one| &one.value.value)
    }

    fn is_usable(&self) -> bool {
        let role = self.role();
        let takes_focus = self.property("focusable") == Some(&Value::Bool(true));
        let is_page = matches!(role, "RootWebArea" | "Iframe" | "option" | "dialog");
        USABLE.contains(&role) || takes_focus && !is_page
    }

    fn states(&self) -> String {
        let mut states = Vec::new();
        for state in STATES {
            match self.property(state) {
                Some(Value::Bool(true)) => states.push(state.to_owned()),
                Some(Value::Bool(false)) if state == "expanded" => {
                    states.push("collapsed".to_owned());
                }
                Some(Value::String(value)) if value == "true" => states.push(state.to_owned()),
                Some(Value::String(value)) if value == "mixed" => {
                    states.push(format!("{state}: mixed"));
                }
                Some(Value::Number(number)) => states.push(format!("{state} {number}")),
                _ => {}
            }
        }
        states.join(", ")
    }

    fn describe(&self, name: &str) -> String {
        let role = match self.role() {
            "" | "generic" | "none" | "presentation" => "element",
            "Iframe" => "frame",
            role => role,
        };
        let mut line = role.to_owned();
        let _ = if name.is_empty() {
            Ok(())
        } else {
            write!(line, " \"{name}\"")
        };
        let value = self.value.as_ref().map(|said| match &said.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = write!(line, " = \"{}\"", one_line(&value, NAME_BYTES));
        }
        let states = self.states();
        let _ = if states.is_empty() {
            Ok(())
        } else {
            write!(line, " ({states})")
        };
        if let Some(Value::String(url)) = self.property("url").filter(|_| self.role() == "link") {
            let _ = write!(line, " → {}", one_line(url, NAME_BYTES));
        }
        line
    }
}

struct Writer<'a> {
    inner: &'a HashMap<i64, Tree>,
    lines: Vec<Line>,
    /// Whether the next text goes on where the last line ends.
    is_open: bool,
}

/// The nodes of a tree by their ids, and those that are written.
struct Nodes<'a> {
    by_id: HashMap<&'a str, &'a Node>,
    written: HashSet<&'a str>,
}

impl<'a> Writer<'a> {
    fn tree(&mut self, tree: &'a Tree, depth: usize, level: usize) {
        let mut nodes = Nodes {
            by_id: tree
                .nodes
                .iter()
                .map(|node| (node.node_id.as_str(), node))
                .collect(),
            written: HashSet::new(),
        };
        let root = tree.nodes.iter().find(|node| node.parent_id.is_none());
        if let Some(root) = root.or(tree.nodes.first()) {
            self.node(&mut nodes, root, depth, "", level);
        }
    }

    /// A node and what is inside it. `told` is the name of the node around it: text that repeats it is left out.
    fn node(
        &mut self,
        nodes: &mut Nodes<'a>,
        node: &'a Node,
        depth: usize,
        told: &str,
        level: usize,
    ) {
        let first = nodes.written.insert(&node.node_id);
        if !first || level > MAX_LEVEL || self.lines.len() >= MAX_LINES {
            return;
        }
        let role = node.role();
        match role {
            "StaticText" => return self.text(&node.name(), depth, told),
            "InlineTextBox" | "ListMarker" | "LineBreak" => return,
            _ => self.is_open = false,
        }
        let name = node.name();
        let is_usable = !node.ignored && node.is_usable();
        let is_internal = role.starts_with(char::is_uppercase) && role != "Iframe";
        let is_plain = PLAIN.contains(&role) && (name.is_empty() || role != "group");
        if !is_usable && (node.ignored || is_internal || is_plain || role.is_empty()) {
            self.children(nodes, node, depth, told, level);
        } else {
            let at = self.lines.len();
            // The name of a row is that of its cells.
            let name = if role == "row" { String::new() } else { name };
            self.lines.push(Line {
                depth,
                node: node.dom.filter(|_| is_usable),
                text: node.describe(&name),
                is_text: false,
            });
            if role == "Iframe" {
                self.frame(node, depth, level);
            } else if !WHOLE.contains(&role) {
                self.children(nodes, node, depth + 1, &name, level);
            }
            self.join(at);
        }
        self.is_open = false;
    }

    fn children(
        &mut self,
        nodes: &mut Nodes<'a>,
        node: &'a Node,
        depth: usize,
        told: &str,
        level: usize,
    ) {
        for id in &node.child_ids {
            if let Some(child) = nodes.by_id.get(id.as_str()).copied() {
                self.node(nodes, child, depth, told, level + 1);
            }
        }
    }

    fn frame(&mut self, node: &Node, depth: usize, level: usize) {
        match node.dom.and_then(|dom| self.inner.get(&dom)) {
            Some(tree) => self.tree(tree, depth + 1, level + 1),
            None => self.lines.push(Line {
                depth: depth + 1,
                node: None,
                text: "(a page of another site, which is not shown here)".to_owned(),
                is_text: false,
            }),
        }
    }

    fn text(&mut self, text: &str, depth: usize, told: &str) {
        if text.is_empty() || told.contains(text) {
            return;
        }
        let last = self.lines.last_mut().filter(|line| {
            self.is_open && line.is_text && line.depth == depth && line.text.len() < TEXT_BYTES
        });
        match last {
            Some(line) => {
                line.text.push(' ');
                line.text.push_str(text);
            }
            None => self.lines.push(Line {
                depth,
                node: None,
                text: text.to_owned(),
                is_text: true,
            }),
        }
        self.is_open = true;
    }

    /// Puts the only text inside a node behind it.
    fn join(&mut self, at: usize) {
        if self.lines.len() == at + 2
            && self.lines[at + 1].is_text
            && let Some(line) = self.lines.pop()
        {
            let _ = write!(self.lines[at].text, ": {}", line.text);
        }
    }
}

fn said(said: Option<&Said>) -> Option<&str> {
    said.and_then(|said| said.value.as_str())
}

/// A text without line ends, and not too long.
fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > limit {
            line.truncate(text::prefix(&line, limit).len());
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(id: &str, role: &str, name: &str, children: &[&str], more: Value) -> Value {
        let parent = (id != "1").then_some("0");
        let dom: i64 = id.parse().unwrap();
        let mut node = json!({
            "nodeId": id, "parentId": parent, "role": {"type": "role", "value": role},
            "name": {"type": "computedString", "value": name}, "childIds": children, "backendDOMNodeId": dom,
            "properties": [],
        });
        if let Value::Object(more) = more {
            node.as_object_mut().unwrap().extend(more);
        }
        node
    }

    fn shown(nodes: &[Value]) -> String {
        let json = json!({ "nodes": nodes }).to_string();
        page_outline(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_can_be_used_has_a_number_and_what_says_nothing_is_left_out() {
        let property = |name: &str, value: Value| json!({"name": name, "value": {"type": "t", "value": value}});
        let text = shown(&[
            node(
                "1",
                "RootWebArea",
                "T",
                &["2", "4", "7", "9", "11", "14"],
                json!({}),
            ),
            node(
                "2",
                "heading",
                "Hi there",
                &["3"],
                json!({"properties": [property("level", json!(1))]}),
            ),
            node("3", "StaticText", "Hi there", &[], json!({})),
            node("4", "paragraph", "", &["5", "6"], json!({})),
            node("5", "StaticText", "Read ", &[], json!({})),
            node(
                "6",
                "link",
                "this",
                &[],
                json!({"properties": [property("url", json!("http://a.test/x"))]}),
            ),
            node(
                "7",
                "textbox",
                "Name",
                &["8"],
                json!({
                    "value": {"type": "string", "value": "Ada"},
                    "properties": [property("required", json!(true)), property("invalid", json!("false"))],
                }),
            ),
            node("8", "StaticText", "Ada", &[], json!({})),
            node("9", "list", "", &["10"], json!({})),
            node("10", "listitem", "", &["13"], json!({})),
            node("11", "none", "", &["12"], json!({"ignored": true})),
            node(
                "12",
                "button",
                "Save",
                &[],
                json!({"properties": [property("disabled", json!(true))]}),
            ),
            node("13", "StaticText", "one", &[], json!({})),
            node("14", "Iframe", "Pay", &[], json!({})),
        ]);
        assert_eq!(
            text,
            "heading \"Hi there\" (level 1)\nRead\n[1] link \"this\" → http://a.test/x\n\
             [2] textbox \"Name\" = \"Ada\" (required)\nlist\n  listitem: one\n[3] button \"Save\" (disabled)\n\
             frame \"Pay\"\n  (a page of another site, which is not shown here)\n"
        );
    }

    #[test]
    fn frames_are_where_they_are_held() {
        let main = json!({"nodes": [
            node("1", "RootWebArea", "", &["2"], json!({})),
            node("2", "Iframe", "", &[], json!({})),
        ]});
        let inside = json!({"nodes": [
            node("1", "RootWebArea", "", &["3"], json!({})),
            node("3", "button", "In", &[], json!({})),
        ]});
        let main: Tree = serde_json::from_value(main).unwrap();
        let inner = HashMap::from([(2, serde_json::from_value(inside).unwrap())]);
        let text = render(&outline(&main, &inner), &HashMap::from([(3, 7)]));
        assert_eq!(text, "frame\n  [7] button \"In\"\n");
    }

    #[test]
    fn a_tree_that_is_none_ends() {
        let text = shown(&[
            node("1", "list", "", &["1", "2", "9"], json!({})),
            node("2", "list", "", &["1"], json!({})),
        ]);
        assert_eq!(text, "list\n  list\n");
        assert_eq!(page_outline(b"{}"), None);
        assert_eq!(page_outline(b"{\"nodes\":[]}").unwrap(), "");
    }
}
