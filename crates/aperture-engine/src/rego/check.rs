//! Refuses modules that the interpreter accepts but Open Policy Agent does not compile, and modules
//! that would take too much of a thread's stack.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::de::Deserialize as _;
use serde_json::Value;

use super::{CompileError, builtins};

/// The bound on the work of the interpreter's parser, which doubles with each level of brackets:
/// the sum of 2^depth over all opening brackets.
const MAX_BRACKET_WORK: u64 = 1 << 17;

/// The deepest nesting of rules and expressions in an evaluation: 2 levels for a rule and 1 for an
/// expression. A level takes about 12 KiB of stack without optimisation, and threads have 2 MiB.
const MAX_DEPTH: usize = 96;

/// Refuses a module whose brackets nest so deeply that parsing would take too long.
pub(super) fn check_nesting(module: &str) -> Result<(), CompileError> {
    let (mut depth, mut work) = (0_u32, 0_u64);
    let (mut line, mut column) = (1, 0);
    // The character that ends the current string or comment.
    let mut closing = None;
    let mut escaped = false;
    for letter in module.chars() {
        column += 1;
        if letter == '\n' {
            (line, column) = (line + 1, 0);
        }
        if let Some(end) = closing {
            // Raw strings have no escapes. Comments and quoted strings end with their line.
            if escaped {
                escaped = false;
            } else if letter == '\\' && end == '"' {
                escaped = true;
            } else if letter == end || (end == '"' && letter == '\n') {
                closing = None;
            }
            continue;
        }
        match letter {
            '"' | '`' => closing = Some(letter),
            '#' => closing = Some('\n'),
            '(' | '[' | '{' => {
                work += 1 << depth.min(32);
                depth += 1;
                if work > MAX_BRACKET_WORK {
                    let message =
                        "brackets nest too deeply here: move the inner part to a rule of its own";
                    return Err(CompileError::new((line, column), message.to_owned()));
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Checks a parsed module and returns the names of its rules, without those of functions.
pub(super) fn check_module(
    tree: &str,
    source: &str,
    package: &str,
) -> Result<Vec<String>, CompileError> {
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
    for import in module["imports"].as_array().unwrap_or(&none) {
        if let Some(path) = path(&import["refr"]) {
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
    Ok(names)
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

/// The references in a part of a module.
#[derive(Default)]
struct References {
    calls: Vec<FunctionCall>,
    variables: HashSet<String>,
    /// Variables that the part declares: with `:=`, `some`, or as parameters of a function.
    declared: HashSet<String>,
    /// The references, each as long as it is constant: `a.b` in `a.b[x].c`, and never its part `a`.
    paths: HashSet<String>,
    /// The deepest nesting of expressions.
    deepest: usize,
}

struct FunctionCall {
    name: String,
    arguments: usize,
    position: (u64, u64),
}

impl References {
    /// Returns the references in a rule, without the rule's own name.
    fn of_rule(spec: &Value, head: &Value, source: &str) -> Self {
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

    fn of(tree: &Value, source: &str) -> Self {
        let mut found = Self::default();
        found.read(tree, source, 0);
        found
    }

    fn read(&mut self, tree: &Value, source: &str, depth: usize) {
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

/// Returns a rule and its head.
fn spec_and_head(tree: &Value) -> (&Value, &Value) {
    let spec = tree.get("Spec").or_else(|| tree.get("Default"));
    let spec = spec.unwrap_or(&Value::Null);
    let head = spec["head"]
        .as_object()
        .and_then(|head| head.values().next());
    (spec, head.unwrap_or(spec))
}

/// Returns the name of a rule: `a`, or `a.b` for a rule that defines a member of `a`.
fn head_name(head: &Value) -> Option<String> {
    let refr = &head["refr"];
    path(refr).or_else(|| path(&refr["RefBrack"]["refr"]))
}

/// Returns a path such as `a.b.c`, also if it is written as `a["b"].c`. `None` for other
/// expressions.
fn path(tree: &Value) -> Option<String> {
    if let Some(name) = tree["Var"]["value"].as_str() {
        return Some(name.to_owned());
    }
    if let Some(refr) = tree.get("RefDot") {
        let field = refr["field"][1].as_str()?;
        return Some(format!("{}.{field}", path(&refr["refr"])?));
    }
    let refr = tree.get("RefBrack")?;
    let field = refr["index"]["String"]["value"].as_str()?;
    Some(format!("{}.{field}", path(&refr["refr"])?))
}

/// Collects the variables that an expression of a head needs, without those that an index or a
/// comprehension binds itself.
fn head_variables(tree: &Value, found: &mut Vec<(String, (u64, u64))>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| head_variables(item, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match &**key {
                    "Var" => {
                        let name = value["value"].as_str().unwrap_or_default();
                        found.push((name.to_owned(), position(value)));
                    }
                    "ArrayCompr" | "SetCompr" | "ObjectCompr" => {}
                    "RefBrack" => head_variables(&value["refr"], found),
                    "Call" => head_variables(&value["params"], found),
                    _ => head_variables(value, found),
                }
            }
        }
        _ => {}
    }
}

/// Returns the text of a span.
fn span_text<'m>(span: &Value, source: &'m str) -> Option<&'m str> {
    let end = |key: &str| usize::try_from(span[key].as_u64()?).ok();
    source.get(end("start")?..end("end")?)
}

/// Returns the line and column of an expression.
fn position(tree: &Value) -> (u64, u64) {
    let number = |key: &str| tree["span"][key].as_u64().unwrap_or(1);
    (number("line"), number("col"))
}
