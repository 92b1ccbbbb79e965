//! Tests of Rego modules: compilation, evaluation and its bounds, texts of values, and added
//! functions.

use std::fmt::Write as _;
use std::sync::Arc;

use regorus::Value;

use super::check::check_module;
use super::{CompileError, CompiledModule, EvaluationError, parse, without};

fn compile(rules: &str) -> Result<CompiledModule, CompileError> {
    let label: Arc<str> = Arc::from("label");
    CompiledModule::compile(&format!("package p.q\n{rules}"), &[label])
}

fn value(rules: &str, input: &str) -> Result<Option<String>, EvaluationError> {
    let module = compile(rules).unwrap_or_else(|error| panic!("{rules}: {error}"));
    let input = Value::from_json_str(input).expect("JSON");
    let mut values = module.evaluate(input)?;
    Ok(values.pop().map(|(_, text)| text))
}

fn compile_error(rules: &str) -> CompileError {
    match compile(rules) {
        Ok(_) => panic!("compiles: {rules}"),
        Err(error) => error,
    }
}

#[test]
fn values_have_the_text_that_an_agent_makes() {
    for (rule, text) in [
        ("label = \"a b\"", "a b"),
        ("label = 3", "3"),
        ("label = 1.5", "1.5"),
        ("label = 3 / 2", "1.5"),
        ("label = 12345678901234567890", "12345678901234567890"),
        ("label = true", "true"),
        ("label = false", "false"),
        ("label = null", "<nil>"),
        ("label = [1, \"a\", null]", "[1 a <nil>]"),
        ("label = {3, 1, 2}", "[1 2 3]"),
        (
            "label = {\"b\": [], \"a\": {\"x\": true}}",
            "map[a:map[x:true] b:[]]",
        ),
        ("label[\"a\"] = 1\nlabel[\"b\"] = 2", "map[a:1 b:2]"),
        ("label[x] { x := [\"u\", \"v\"][_] }", "[u v]"),
        (
            "default label = \"none\"\nlabel = input.x { input.x }",
            "none",
        ),
    ] {
        assert_eq!(value(rule, "{}"), Ok(Some(text.to_owned())), "{rule}");
    }
}

#[test]
fn undefined_rules_have_no_value() {
    for rule in [
        "label = input.x",
        "label { input.x == 1 }",
        "label = to_number(\"no number\")",
        "label = 1 / input.zero",
        "other = 1",
        "label(x) = x",
        "",
    ] {
        assert_eq!(value(rule, "{\"zero\": 0}"), Ok(None), "{rule}");
    }
}

#[test]
fn conflicting_rules_fail() {
    assert_eq!(
        value("label = 1 { input }\nlabel = 2 { input }", "{}"),
        Err(EvaluationError::Error)
    );
}

#[test]
fn modules_that_open_policy_agent_refuses_are_refused_with_a_position() {
    for (rules, line, reason) in [
        ("label = {", 2, "expect"),
        ("ok = 1\nlabel { not x }", 3, "unsafe"),
        ("ok = 1\nlabel { z > 1 }", 3, "unsafe"),
        ("label = x { y := 1 }", 2, "`x` has no value"),
        ("label = x", 2, "`x` has no value"),
        ("label { foo.bar(1) }", 2, "`foo.bar` is not a function"),
        (
            "label = http.send({\"url\": \"http://x\"})",
            2,
            "`http.send` is not a function",
        ),
        (
            "label = net.cidr_expand(input.x)",
            2,
            "`net.cidr_expand` is not a function",
        ),
        ("label = count(1, 2, 3)", 2, "`count` does not take 3"),
        ("f(x) = x\nlabel = f(1, 2, 3)", 3, "`f` does not take 3"),
        ("label = a\na = label", 2, "depends on itself"),
        (
            "f(x) = g(x)\ng(x) = f(x)\nlabel = f(1)",
            3,
            "depends on itself",
        ),
        (
            "f(x) = f(x - 1) { x > 0 }\nlabel = f(3)",
            2,
            "depends on itself",
        ),
        (
            "label = data.p.q.other\nother = data.p.q.label",
            3,
            "depends on itself",
        ),
        ("label = a\na.b = label", 2, "depends on itself"),
        ("a.b = a\nlabel = a", 2, "depends on itself"),
        ("label = data.p.q", 2, "depends on itself"),
        ("label = 1 { data.p }", 2, "depends on itself"),
        ("label = data", 2, "depends on itself"),
    ] {
        let error = compile_error(rules);
        assert!(error.message.contains(reason), "{rules}: {error}");
        assert_eq!(
            error.position.map(|(line, _)| line),
            Some(line),
            "{rules}: {error}"
        );
    }
    assert!(CompiledModule::compile("no module", &[]).is_err());
    assert!(CompiledModule::compile("", &[]).is_err());
}

#[test]
fn errors_contain_nothing_of_the_module_but_names() {
    let error = compile_error("key = \"hunter2\" label = [");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let module = compile("label = \"hunter2\"").expect("compiles");
    assert!(!format!("{module:?}").contains("hunter2"));
}

#[test]
fn variables_may_have_the_names_of_rules() {
    for rules in [
        "a.b = 1\na.c = a.b\na.d = a.c.e\nlabel = a",
        "label = u { u := input.x }\nu = v { v := 1; label_count := 1; label_count > 0 }",
        "label = x { some a; a = input.x; x := a }\na = y { some label; label = input.x; y := label }",
        "f(label) = label\nlabel = f(input.x)",
        "label = [x | x := input.list[_]]",
        "label = input.list[i]  { i := 0 }",
        "import input.x as y\nlabel = y",
        "import future.keywords.in\nlabel = \"yes\" { 1 in input.list }",
        "label = x { [_, x] := [1, 2] }",
        "label = x { split(\"a b\", \" \", [_, x]) }",
        "f(x) = y { y := x }\nlabel = data.p.q.f(1)",
    ] {
        let value = value(rules, "{\"x\": 1, \"list\": [1, 2]}");
        assert!(matches!(value, Ok(Some(_))), "{rules}: {value:?}");
    }
}

#[test]
fn modules_that_nest_too_deeply_are_refused_quickly() {
    for depth in [30, 1000, 100_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let error = compile_error(&format!("label = {open}1{close}"));
        assert!(error.message.contains("nest"), "{error}");
    }
    // Brackets in strings and comments do not count.
    let texts = format!(
        "# {0}\nlabel = \"{0}\\\"{0}\"\nraw = `{0}\\`",
        "[".repeat(100)
    );
    assert!(compile(&texts).is_ok());

    for (first, next, last) in [
        ("label = r0\n", "r{i} = x { x := r{n} }\n", "r{n} = 1\n"),
        (
            "label = f0(1)\n",
            "f{i}(x) = y { y := f{n}(x) }\n",
            "f{n}(x) = x\n",
        ),
    ] {
        let mut module = first.to_owned();
        let mut end = 0;
        for i in 0..200 {
            end = i + 1;
            let rule = next.replace("{i}", &i.to_string());
            module.push_str(&rule.replace("{n}", &end.to_string()));
        }
        module.push_str(&last.replace("{n}", &end.to_string()));
        let error = compile_error(&module);
        assert!(error.message.contains("too deeply"), "{error}");
    }
}

#[test]
fn the_deepest_modules_fit_the_stack_of_a_thread() {
    // Each level is a rule, an assignment and nested comprehensions.
    for inner in 0..8 {
        let nested = "[a | a := ".repeat(inner);
        let closed = "]".repeat(inner);
        let levels = (1..).take_while(|levels| compile(&chain(*levels, &nested, &closed)).is_ok());
        let levels = levels.last().expect("one level compiles");
        let module = chain(levels, &nested, &closed);
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let run = move || value(&module, "{}");
        let value = thread
            .spawn(run)
            .expect("a thread")
            .join()
            .expect("no panic");
        assert!(
            matches!(value, Ok(Some(_))),
            "{inner} in {levels}: {value:?}"
        );
    }
}

fn chain(levels: usize, nested: &str, closed: &str) -> String {
    let mut module = "label = r0\n".to_owned();
    for level in 0..levels {
        let next = level + 1;
        let rule = writeln!(module, "r{level} = x {{ x := {nested}r{next}{closed} }}");
        rule.expect("writing to a `String` cannot fail");
    }
    module + &format!("r{levels} = 1\n")
}

#[test]
fn the_memory_of_an_evaluation_is_bounded() {
    let range = |last: &str| {
        value(
            "label = count(numbers.range(1, input.n))",
            &format!("{{\"n\": {last}}}"),
        )
    };
    assert_eq!(range("3"), Ok(Some("3".to_owned())));
    assert_eq!(range("1000000000000"), Ok(None));
    assert_eq!(range("-9223372036854775808"), Ok(None));
    let down = value("label = numbers.range(3, 1)", "{}");
    assert_eq!(down, Ok(Some("[3 2 1]".to_owned())));
    // The text of this value would take 2^30 bytes.
    let mut doubling = "label = a0\n".to_owned();
    for level in 0..20 {
        let next = level + 1;
        writeln!(doubling, "a{level} = [a{next}, a{next}]")
            .expect("writing to a `String` cannot fail");
    }
    doubling.push_str("a20 = \"x\"\n");
    assert_eq!(value(&doubling, "{}"), Err(EvaluationError::Output));
}

#[test]
fn a_redundant_import_of_input_is_blanked_and_changes_no_value_and_no_position() {
    let rules = "import input # é\nimport input.x as y\nlabel = [input.x, y]";
    let text = value(rules, "{\"x\": 1}");
    assert_eq!(text, Ok(Some("[1 1]".to_owned())));
    let module = format!("package p.q\n{rules}");
    let (engine, package) = parse(&module).expect("it parses");
    let tree = engine.get_ast_as_json().expect("it was parsed");
    let checked = check_module(&tree, &module, &package).expect("it is valid");
    let blanked = module.replace("import input #", "             #");
    assert_eq!(without(&module, &checked.redundant_imports), blanked);
    let error = compile_error("import input\nlabel = nowhere");
    assert_eq!(error.position, Some((3, 9)));
}

#[test]
fn print_writes_nothing_and_does_not_fail() {
    let printed = value("label = 1 { print(\"secret\", input.x) }", "{\"x\": 1}");
    assert_eq!(printed, Ok(Some("1".to_owned())));
}

#[test]
fn tokens_are_decoded_and_verified() {
    // The example of RFC 7519, with the key of RFC 7515.
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
    let input = format!("{{\"t\": \"{token}\"}}");
    let rule = "label = p.name { io.jwt.verify_hs256(input.t, input_key); [_, p, _] := io.jwt.decode(input.t) }\n";
    let right = format!("{rule}input_key = \"your-256-bit-secret\"");
    assert_eq!(value(&right, &input), Ok(Some("John Doe".to_owned())));
    let wrong = format!("{rule}input_key = \"another\"");
    assert_eq!(value(&wrong, &input), Ok(None));
    for broken in ["", "a.b", "a.b.c", "....", "e30.e30.", "e30.bm8.AA"] {
        let input = format!("{{\"t\": \"{broken}\"}}");
        assert_eq!(value(&right, &input), Ok(None), "{broken}");
    }
}

#[test]
fn graphql_documents_become_trees() {
    let field = "{\"Alias\":\"b\",\"Name\":\"b\"}";
    for (query, tree) in [
        (
            "{ b }",
            format!(
                "{{\"Operations\":[{{\"Name\":\"\",\"Operation\":\"query\",\"SelectionSet\":[{field}]}}]}}"
            ),
        ),
        (
            "mutation m($v: [Int!]! = [1]) @d { x: a(n: 1.5, s: \"q\", o: {k: $v}, e: RED) { b ...f ... on T { b } } } fragment f on T { b }",
            format!(
                "{{\"Fragments\":[{{\"Name\":\"f\",\"SelectionSet\":[{field}],\"TypeCondition\":\"T\"}}],\
                 \"Operations\":[{{\"Directives\":[{{\"Location\":\"\",\"Name\":\"d\"}}],\"Name\":\"m\",\
                 \"Operation\":\"mutation\",\"SelectionSet\":[{{\"Alias\":\"x\",\"Arguments\":[\
                 {{\"Name\":\"n\",\"Value\":{{\"Kind\":2,\"Raw\":\"1.5\"}}}},\
                 {{\"Name\":\"s\",\"Value\":{{\"Kind\":3,\"Raw\":\"q\"}}}},\
                 {{\"Name\":\"o\",\"Value\":{{\"Children\":[{{\"Name\":\"k\",\"Value\":{{\"Kind\":0,\"Raw\":\"v\"}}}}],\
                 \"Kind\":9,\"Raw\":\"\"}}}},\
                 {{\"Name\":\"e\",\"Value\":{{\"Kind\":7,\"Raw\":\"RED\"}}}}],\
                 \"Name\":\"a\",\"SelectionSet\":[{field},{{\"Name\":\"f\"}},\
                 {{\"SelectionSet\":[{field}],\"TypeCondition\":\"T\"}}]}}],\
                 \"VariableDefinitions\":[{{\"DefaultValue\":{{\"Children\":[{{\"Name\":\"\",\"Value\":\
                 {{\"Kind\":1,\"Raw\":\"1\"}}}}],\"Kind\":8,\"Raw\":\"\"}},\"Type\":{{\"Elem\":\
                 {{\"NamedType\":\"Int\",\"NonNull\":true}},\"NamedType\":\"\",\"NonNull\":true}},\
                 \"Used\":false,\"Variable\":\"v\"}}]}}]}}"
            ),
        ),
    ] {
        let found = super::graphql::parse_query(&Value::from(query));
        let expected = Value::from_json_str(&tree).expect("JSON");
        assert_eq!(found, expected, "{query}");
    }
    let deep = "{a".repeat(10_000) + &"}".repeat(10_000);
    let block = format!("{{ a(b: \"\"\"{}\"\"\") }}", "\n".repeat(100_000));
    assert_ne!(
        super::graphql::parse_query(&Value::from(&*block)),
        Value::Undefined
    );
    for broken in [
        "",
        "{",
        "{}",
        "{ a",
        "query",
        "{ a(b: 01) }",
        "{ a } }",
        "..",
        "fragment on on T { a }",
        &deep,
    ] {
        let tree = super::graphql::parse_query(&Value::from(broken));
        assert_eq!(tree, Value::Undefined, "{broken:.20}");
    }
}
