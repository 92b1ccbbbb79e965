//! Refuses modules that the interpreter accepts but Open Policy Agent does not compile, and modules
//! that would take too much of a thread's stack.

mod nesting;
mod references;
mod tree;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use serde::de::Deserialize as _;
use serde_json::Value;

pub(super) use self::nesting::check_nesting;
use self::references::References;
use self::tree::{head_name, head_variables, path, position, span_bytes, span_text, spec_and_head};
use super::{CompileError, builtins};

/// The deepest nesting of rules and expressions in an evaluation: 2 levels for a rule and 1 for an
/// expression. A level takes about 12 KiB of stack without optimisation, and threads have 2 MiB.
const MAX_DEPTH: usize = 96;

/// What the rest of the compilation needs to know of a module.
pub(super) struct CheckedModule {
    /// The names of the rules, without those of functions, sorted.
    pub(super) rules: Vec<String>,
    /// The bytes of each `import input`, which has no effect.
    pub(super) redundant_imports: Vec<Range<usize>>,
}

/// Checks a parsed module.
pub(super) fn check_module(
    tree: &str,
    source: &str,
    package: &str,
) -> Result<CheckedModule, CompileError> {
    let mut reader = serde_json::Deserializer::from_str(tree);
    // Expressions nest at most 32 levels, each a few levels of JSON.
    reader.disable_recursion_limit();
    let tree = Value::deserialize(&mut reader).map_err(|error| CompileError {
        position: None,
        message: error.to_string(),
    })?;
    let module = &tree[0]["ast"];
    let none = Vec::new();
    let mut imports = HashMap::new();
    let mut redundant_imports = Vec::new();
    for import in module["imports"].as_array().unwrap_or(&none) {
        if let Some(path) = path(&import["refr"]) {
            if path == "input" && import["as"].is_null() {
                let bytes = span_bytes(&import["span"]);
                redundant_imports.extend(bytes.filter(|bytes| source.get(bytes.clone()).is_some()));
            }
            let last = path.rsplit('.').next().unwrap_or_default().to_owned();
            let name = span_text(&import["as"], source).map_or(last, str::to_owned);
            imports.insert(name, path);
        }
    }
    let mut checker = ModuleChecker {
        source,
        package: package.strip_prefix("data.").unwrap_or(package),
        imports,
        rules: HashMap::new(),
    };
    let rules = module["rules"].as_array().unwrap_or(&none);
    for rule in rules {
        checker.add(rule);
    }
    for rule in rules {
        checker.check_calls(rule)?;
        checker.check_head(rule)?;
    }
    checker.check_depths()?;
    let mut names: Vec<String> = checker
        .rules
        .iter()
        .filter(|(_, rule)| rule.arguments.is_empty())
        .map(|(name, _)| name.clone())
        .collect();
    names.sort_unstable();
    Ok(CheckedModule {
        rules: names,
        redundant_imports,
    })
}

/// The rules of a module, for checks across rules.
struct ModuleChecker<'m> {
    source: &'m str,
    package: &'m str,
    /// The path of each imported name.
    imports: HashMap<String, String>,
    /// By name.
    rules: HashMap<String, RuleGroup>,
}

/// All rules of one name.
#[derive(Default)]
struct RuleGroup {
    position: (u64, u64),
    /// The numbers of parameters, if these are functions; empty for rules.
    arguments: BTreeSet<usize>,
    /// The paths that the rules refer to.
    uses: HashSet<String>,
    depth: usize,
}

impl ModuleChecker<'_> {
    /// Adds a rule with its references.
    fn add(&mut self, tree: &Value) {
        let (spec, head) = spec_and_head(tree);
        let Some(name) = head_name(head) else {
            return;
        };
        let found = References::of_rule(spec, head, self.source);
        let calls = found.calls.iter().map(|call| &call.name);
        // A variable of the rule shadows a rule of the same name, but not a function.
        let others = found.paths.iter().filter(|path| {
            let first = path.split('.').next().unwrap_or_default();
            !found.declared.contains(first)
        });
        let uses: HashSet<String> = calls.chain(others).map(|path| self.resolve(path)).collect();
        let rule = self.rules.entry(name).or_default();
        rule.position = position(spec);
        if let Some(arguments) = head["args"].as_array().filter(|list| !list.is_empty()) {
            rule.arguments.insert(arguments.len());
        }
        rule.uses.extend(uses);
        rule.depth = rule.depth.max(found.deepest + 2);
    }

    /// Resolves imports in a path and removes the module's own package from it. The package itself is
    /// the empty path.
    fn resolve(&self, path: &str) -> String {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let path = match self.imports.get(first) {
            Some(import) if rest.is_empty() => import.clone(),
            Some(import) => format!("{import}.{rest}"),
            None => path.to_owned(),
        };
        // `data` and each part of the package's own path contain all rules of the module.
        if let Some(rest) = path.strip_prefix("data")
            && format!(".{}.", self.package).starts_with(&format!("{rest}."))
        {
            return String::new();
        }
        let own = path
            .strip_prefix("data.")
            .and_then(|path| path.strip_prefix(self.package))
            .and_then(|path| path.strip_prefix('.'));
        own.map_or(path.clone(), str::to_owned)
    }

    /// Refuses calls of unknown functions, and calls with a wrong number of arguments.
    fn check_calls(&self, tree: &Value) -> Result<(), CompileError> {
        let (spec, head) = spec_and_head(tree);
        let found = References::of_rule(spec, head, self.source);
        for call in &found.calls {
            let name = self.resolve(&call.name);
            // An additional argument receives the result.
            let fits = |parameters: usize| {
                call.arguments == parameters || call.arguments == parameters + 1
            };
            let known = match self.rules.get(&name) {
                Some(rule) => rule.arguments.iter().any(|parameters| fits(*parameters)),
                None => match builtins::parameters(&call.name) {
                    Some(parameters) => parameters == 0 || fits(parameters),
                    None => {
                        let message = format!(
                            "`{}` is not a function of this module, nor an available function of \
                             Rego",
                            call.name
                        );
                        return Err(CompileError::new(call.position, message));
                    }
                },
            };
            if !known {
                let message = format!("`{}` does not take {} arguments", call.name, call.arguments);
                return Err(CompileError::new(call.position, message));
            }
        }
        Ok(())
    }

    /// Refuses rules whose head has a variable that the body does not bind.
    fn check_head(&self, tree: &Value) -> Result<(), CompileError> {
        let (spec, head) = spec_and_head(tree);
        let mut bound = References::of(&spec["bodies"], self.source);
        bound.read(&head["args"], self.source, 0);
        let mut used = Vec::new();
        head_variables(&head["assign"]["value"], &mut used);
        head_variables(&head["key"], &mut used);
        for (name, position) in used {
            let known = name.starts_with('_')
                || matches!(&*name, "input" | "data")
                || bound.variables.contains(&name)
                || self.imports.contains_key(&name)
                || self
                    .rules
                    .keys()
                    .any(|rule| rule.split('.').next() == Some(&*name));
            if !known {
                let message = format!("`{name}` has no value: no expression of the rule binds it");
                return Err(CompileError::new(position, message));
            }
        }
        Ok(())
    }

    /// Refuses rules that depend on themselves, and chains of rules that are too long.
    fn check_depths(&self) -> Result<(), CompileError> {
        let members = self.members();
        let mut names: Vec<&str> = self.rules.keys().map(|name| &**name).collect();
        names.sort_unstable();
        let mut depths: HashMap<&str, Option<usize>> = HashMap::new();
        for name in names {
            // An explicit stack instead of recursion, because a module may have many rules.
            let mut stack = vec![(name, name, false)];
            while let Some((name, reason, done)) = stack.pop() {
                // Objects have no position of their own: an error names the rule that led there.
                let reason = if self.rules.contains_key(name) {
                    name
                } else {
                    reason
                };
                if done {
                    let below = self
                        .dependencies(name, &members)
                        .filter_map(|used| depths.get(used)?.as_ref());
                    let own = self.rules.get(name).map_or(1, |rule| rule.depth);
                    let depth = own + below.max().copied().unwrap_or(0);
                    if depth > MAX_DEPTH {
                        let message = format!(
                            "`{reason}` nests too deeply: it has {depth} levels of rules and expressions, and at most {MAX_DEPTH} are allowed"
                        );
                        return Err(CompileError::new(self.rules[reason].position, message));
                    }
                    depths.insert(name, Some(depth));
                    continue;
                }
                if depths.contains_key(name) {
                    continue;
                }
                depths.insert(name, None);
                stack.push((name, reason, true));
                for used in self.dependencies(name, &members) {
                    match depths.get(used) {
                        // The rule is still being visited, so the path is a cycle.
                        Some(None) => {
                            let message = format!("`{reason}` depends on itself");
                            return Err(CompileError::new(self.rules[reason].position, message));
                        }
                        Some(_) => {}
                        None => stack.push((used, reason, false)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the members of each object that rules build: of `a` and `a.b` for the rule `a.b.c`,
    /// and of the package, whose name is empty.
    fn members(&self) -> HashMap<&str, BTreeSet<&str>> {
        let mut members: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for name in self.rules.keys() {
            let mut member = &**name;
            while !member.is_empty() {
                let object = member.rsplit_once('.').map_or("", |(object, _)| object);
                if !members.entry(object).or_default().insert(member) {
                    break;
                }
                member = object;
            }
        }
        members
    }

    /// Returns the rules and objects that a rule or an object may evaluate. A path is the name of
    /// one of them, or starts with the name of a rule and leads into its value.
    fn dependencies<'a>(
        &'a self,
        name: &str,
        members: &'a HashMap<&'a str, BTreeSet<&'a str>>,
    ) -> impl Iterator<Item = &'a str> {
        let uses = self.rules.get(name).into_iter().flat_map(|rule| &rule.uses);
        let used = uses.filter_map(|used| {
            if let Some((object, _)) = members.get_key_value(&**used) {
                return Some(*object);
            }
            let mut path = &**used;
            loop {
                if let Some((name, _)) = self.rules.get_key_value(path) {
                    return Some(&**name);
                }
                path = path.rsplit_once('.')?.0;
            }
        });
        used.chain(members.get(name).into_iter().flatten().copied())
    }
}
