//! Classifiers in code: labels from the attributes of HTTP requests.

use super::field::FieldPath;
use super::hidden::Hidden;
use super::lower::Lowering;
use super::selector::Selector;
use crate::policy::PolicyError;
use crate::policy::yaml::{Mapping, Value};

/// Makes labels from the attributes of HTTP requests, for policies to limit by.
///
/// Requests have attributes with a layer made by `ApertureLayer::http`. In the layer itself,
/// readers of labels cost less; a classifier does the same with an Agent, and for other clients of
/// it.
///
/// ```
/// use tower_aperture::policy::{Classifier, Extractor, Policy, RateLimit};
///
/// let classifier = Classifier::new()
///     .at("api")
///     .label("method", Extractor::attribute("request.http.method"))
///     .label("client", Extractor::header("x-client"))
///     .label("product", Extractor::json("request.http.body", "/product/id"))
///     .label("subject", Extractor::jwt("request.http.bearer", "/sub"))
///     .label_without_telemetry("address", Extractor::source_address())
///     .label_without_telemetry("server", Extractor::destination_address())
///     .label("endpoint", Extractor::path_templates([("/users/{id}", "user"), ("/*", "other")]));
/// let policy = Policy::new("api")
///     .at("api")
///     .classify(classifier)
///     .limit(RateLimit::per_minute(100).by("subject"));
/// assert!(policy.to_yaml()?.contains("json_pointer: /sub"));
///
/// // A module in Rego, which is evaluated with the feature `rego`.
/// let module = "package example\n\ntier = \"gold\" {\n  input.parsed_path[0] == \"gold\"\n}\n";
/// let rego = Classifier::new().rego(module, ["tier"]);
/// Policy::new("tiers").at("api").classify(rego).to_yaml()?;
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classifier {
    selectors: Vec<Selector>,
    rules: Vec<Rule>,
    rego: Option<(Hidden, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    label: String,
    extractor: Extractor,
    telemetry: bool,
}

impl Classifier {
    /// Returns a classifier without rules, of which it needs at least one, or a module.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Classifies flows of this control point or [`Selector`]. Several calls select the flows of
    /// any of them. Without this, the [policy's](super::Policy::at) selectors apply.
    #[must_use]
    pub fn at(mut self, selector: impl Into<Selector>) -> Self {
        self.selectors.push(selector.into());
        self
    }

    fn rule(mut self, label: String, extractor: Extractor, telemetry: bool) -> Self {
        self.rules.push(Rule {
            label,
            extractor,
            telemetry,
        });
        self
    }

    /// Sets a label from an attribute. Its name has letters, digits and `_`.
    #[must_use]
    pub fn label(self, label: impl Into<String>, extractor: Extractor) -> Self {
        self.rule(label.into(), extractor, true)
    }

    /// Sets a label that telemetry does not have, such as one with personal data.
    #[must_use]
    pub fn label_without_telemetry(self, label: impl Into<String>, extractor: Extractor) -> Self {
        self.rule(label.into(), extractor, false)
    }

    /// Sets labels by a module in Rego. A later call replaces an earlier one.
    #[must_use]
    pub fn rego<L: Into<String>>(
        mut self,
        module: impl Into<String>,
        labels: impl IntoIterator<Item = L>,
    ) -> Self {
        let labels = labels.into_iter().map(Into::into).collect();
        self.rego = Some((Hidden::new(module), labels));
        self
    }

    pub(super) fn lower(
        &self,
        path: &FieldPath<'_>,
        lowering: &Lowering<'_>,
    ) -> Result<Value, PolicyError> {
        if self.rules.is_empty() && self.rego.is_none() {
            return Err(path.error("the classifier sets no label; add one by `label`"));
        }
        let labels_path = path.name("labels");
        let mut rules = Mapping::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let path = labels_path.index(index);
            new_key(&rules, &rule.label, &path)?;
            let fields = Mapping::new().with("extractor", rule.extractor.lower(&path)?);
            let hidden = (!rule.telemetry).then_some(false);
            rules = rules.with(rule.label.clone(), fields.with_some("telemetry", hidden));
        }
        let rego = self.rego.as_ref();
        let rego = rego.map(|(module, labels)| lower_rego(module, labels, &path.name("rego")));
        let classifier = Mapping::new()
            .with("selectors", lowering.selectors(&self.selectors, path)?)
            .with_some("rules", rules.unless_empty())
            .with_some("rego", rego.transpose()?);
        Ok(classifier.into())
    }
}

fn lower_rego(
    module: &Hidden,
    names: &[String],
    path: &FieldPath<'_>,
) -> Result<Mapping, PolicyError> {
    let module = path.name("module").text_value(module.as_str())?;
    let mut labels = Mapping::new();
    for name in names {
        new_key(&labels, name, &path.name("labels"))?;
        labels = labels.with(name.clone(), Mapping::new());
    }
    Ok(Mapping::new().with("module", module).with("labels", labels))
}

/// Refuses a key that cannot be one, or that exists.
fn new_key(map: &Mapping, key: &str, path: &FieldPath<'_>) -> Result<(), PolicyError> {
    path.check_key(key)?;
    match map.has(key) {
        true => Err(path.error(format!("`{key}` is given twice; give it once"))),
        false => Ok(()),
    }
}

/// The source of the value of a label of a [`Classifier`], where there is an example of each.
///
/// ```
/// use tower_aperture::policy::Extractor;
///
/// let host = Extractor::attribute("request.http.host");
/// # let _ = host;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Extractor(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Attribute(String),
    Json(String, String),
    Jwt(String, String),
    Address(&'static str),
    PathTemplates(Vec<(String, Hidden)>),
}

impl Extractor {
    /// Returns the value of an attribute: `request.http.` with `method`, `path`, `host`,
    /// `protocol`, `body`, `id`, `bearer` or `headers.` and a name, or another one that Aperture
    /// defines.
    pub fn attribute(name: impl Into<String>) -> Self {
        Self(Kind::Attribute(name.into()))
    }

    /// Returns the value of a header, whose name is in lower case.
    #[must_use]
    pub fn header(name: &str) -> Self {
        Self::attribute(format!("request.http.headers.{name}"))
    }

    /// Returns the value at a JSON pointer, such as `/user/name`, in an attribute that is a JSON
    /// document.
    pub fn json(attribute: impl Into<String>, pointer: impl Into<String>) -> Self {
        Self(Kind::Json(attribute.into(), pointer.into()))
    }

    /// Returns the value at a JSON pointer in the payload of a JSON web token, such as the
    /// `request.http.bearer`. Its signature is not verified.
    pub fn jwt(attribute: impl Into<String>, pointer: impl Into<String>) -> Self {
        Self(Kind::Jwt(attribute.into(), pointer.into()))
    }

    /// Returns the IP address of the caller.
    #[must_use]
    pub fn source_address() -> Self {
        Self(Kind::Address("source.address"))
    }

    /// Returns the IP address of the service.
    #[must_use]
    pub fn destination_address() -> Self {
        Self(Kind::Address("destination.address"))
    }

    /// Returns the value of the template that the path matches: pairs of a template and a value. A
    /// template has literal segments, then parameters in braces, then optionally `*`.
    pub fn path_templates<T: Into<String>, V: Into<String>>(
        templates: impl IntoIterator<Item = (T, V)>,
    ) -> Self {
        let templates = templates.into_iter();
        let templates = templates.map(|(template, value)| (template.into(), Hidden::new(value)));
        Self(Kind::PathTemplates(templates.collect()))
    }

    fn lower(&self, path: &FieldPath<'_>) -> Result<Mapping, PolicyError> {
        let from = |attribute: &str| Mapping::new().with("from", attribute);
        Ok(match &self.0 {
            Kind::Attribute(name) => from(name),
            Kind::Json(attribute, pointer) => {
                let fields = from(attribute).with("pointer", pointer.as_str());
                Mapping::new().with("json", fields)
            }
            Kind::Jwt(attribute, pointer) => {
                let fields = from(attribute).with("json_pointer", pointer.as_str());
                Mapping::new().with("jwt", fields)
            }
            Kind::Address(side) => Mapping::new().with("address", from(side)),
            Kind::PathTemplates(templates) => {
                let path = path.name("path_templates");
                let mut values = Mapping::new();
                for (template, value) in templates {
                    new_key(&values, template, &path)?;
                    values = values.with(template.clone(), value.as_str());
                }
                let fields = Mapping::new().with("template_values", values);
                Mapping::new().with("path_templates", fields)
            }
        })
    }
}
