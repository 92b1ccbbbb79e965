//! Collects what a part of a module refers to.

use std::collections::HashSet;

use serde_json::Value;

use super::tree::{path, position, span_text};

/// The references in a part of a module.
#[derive(Default)]
pub(super) struct References {
    pub(super) calls: Vec<FunctionCall>,
    pub(super) variables: HashSet<String>,
    /// Variables that the part declares: with `:=`, `some`, or as parameters of a function.
    pub(super) declared: HashSet<String>,
    /// The references, each as long as it is constant: `a.b` in `a.b[x].c`, and never its part `a`.
    pub(super) paths: HashSet<String>,
    /// The deepest nesting of expressions.
    pub(super) deepest: usize,
}

pub(super) struct FunctionCall {
    pub(super) name: String,
    pub(super) arguments: usize,
    pub(super) position: (u64, u64),
}

impl References {
    /// Returns the references in a rule, without the rule's own name.
    pub(super) fn of_rule(spec: &Value, head: &Value, source: &str) -> Self {
        let mut found = Self::default();
        found
            .declared
            .extend(Self::of(&head["args"], source).variables);
        let index = &head["refr"]["RefBrack"]["index"];
        for part in [
            index,
            &head["assign"],
            &head["key"],
            &spec["value"],
            &spec["bodies"],
        ] {
            found.read(part, source, 0);
        }
        found
    }

    pub(super) fn of(tree: &Value, source: &str) -> Self {
        let mut found = Self::default();
        found.read(tree, source, 0);
        found
    }

    pub(super) fn read(&mut self, tree: &Value, source: &str, depth: usize) {
        self.read_part(tree, source, depth, false);
    }

    /// `covered` says that the expression is a part of a reference whose path has been added.
    fn read_part(&mut self, tree: &Value, source: &str, depth: usize, covered: bool) {
        self.deepest = self.deepest.max(depth);
        match tree {
            Value::Array(items) => items
                .iter()
                .for_each(|item| self.read_part(item, source, depth, covered)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    let deeper = depth + usize::from(nests(key));
                    let mut covers = covered && key == "refr";
                    match &**key {
                        "Var" => {
                            let name = value["value"].as_str();
                            self.variables.extend(name.map(str::to_owned));
                            if !covered {
                                self.paths.extend(name.map(str::to_owned));
                            }
                            continue;
                        }
                        "Call" => self
                            .calls
                            .extend(path(&value["fcn"]).map(|name| FunctionCall {
                                name,
                                arguments: value["params"].as_array().map_or(0, Vec::len),
                                position: position(value),
                            })),
                        "RefDot" | "RefBrack" => {
                            let path = path(tree);
                            covers = covered || path.is_some();
                            if !covered {
                                self.paths.extend(path);
                            }
                        }
                        "AssignExpr" if value["op"] == "ColEq" => {
                            self.declared
                                .extend(Self::of(&value["lhs"], source).variables);
                        }
                        "SomeVars" => {
                            let variables = value["vars"].as_array().into_iter().flatten();
                            let names = variables.filter_map(|span| span_text(span, source));
                            self.declared.extend(names.map(str::to_owned));
                        }
                        _ => {}
                    }
                    self.read_part(value, source, deeper, covers);
                }
            }
            _ => {}
        }
    }
}

/// Returns true for a kind of expression whose parts are evaluated within it.
fn nests(kind: &str) -> bool {
    matches!(
        kind,
        "Call"
            | "Array"
            | "Set"
            | "Object"
            | "ArrayCompr"
            | "SetCompr"
            | "ObjectCompr"
            | "UnaryExpr"
            | "BinExpr"
            | "BoolExpr"
            | "ArithExpr"
            | "AssignExpr"
            | "Membership"
            | "Every"
            | "NotExpr"
    )
}
