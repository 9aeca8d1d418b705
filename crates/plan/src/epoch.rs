//! `SOURCE_DATE_EPOCH`: the time that an image says it is of.

use std::borrow::Cow;

use dcbuild_dockerfile::Dockerfile;

use crate::globals;
use crate::plan::PlanError;
use crate::request::Request;
use crate::stage::Draft;

pub(crate) const NAME: &str = "SOURCE_DATE_EPOCH";
/// What stands for the time of the build's own context, and its name.
const CONTEXT: &str = "context";

/// A request in which a time that is named by its context is a number, or empty where that has none, as one of a folder.
pub(crate) fn dated<'r>(
    request: &'r Request,
    dockerfile: &Dockerfile,
) -> Result<Cow<'r, Request>, PlanError> {
    let value = match request.build_args.get(NAME) {
        Some(given) => Some(given.clone()),
        None => globals::globals(request.first(), dockerfile)?.get(NAME).map(str::to_owned),
    };
    let Some(name) = value.filter(|value| value == CONTEXT || request.contexts.contains_key(value))
    else {
        return Ok(Cow::Borrowed(request));
    };
    let seconds = request.times.get(&name).map(i64::to_string).unwrap_or_default();
    let mut request = request.clone();
    request.build_args.insert(NAME.to_owned(), seconds);
    Ok(Cow::Owned(request))
}

/// The time, where one is said.
pub(crate) fn seconds(draft: &Draft<'_>) -> Result<Option<i64>, PlanError> {
    let given = draft.request.build_args.get(NAME).map(String::as_str);
    let value = given.or(draft.globals.get(NAME)).filter(|value| !value.is_empty());
    let parse = |value: &str| {
        value.parse().map_err(|_| {
            let names = |name: &Option<String>| {
                name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(value))
            };
            let is_stage = draft.dockerfile.stages.iter().any(|stage| names(&stage.name));
            let hint = if is_stage {
                "the time of a stage is not looked up here: give whole seconds since 1970, or the name of a context that is fetched (--build-context NAME=URL)"
            } else {
                "give whole seconds since 1970, such as SOURCE_DATE_EPOCH=1577836800, or `context` for the time of a context that is fetched"
            };
            let message = format!("invalid SOURCE_DATE_EPOCH: {value}");
            PlanError::Request { message, hint: Some(hint.to_owned()) }
        })
    };
    value.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dcbuild_dockerfile::parse;

    use super::*;
    use crate::request::ContextSource;

    #[test]
    fn the_time_of_a_context_stands_for_its_name() {
        let check = |text: &str, given: Option<&str>, want: Option<&str>| {
            let times = [("context".to_owned(), 7), ("lib".to_owned(), 8)];
            let folder = |name: &str| (name.to_owned(), ContextSource::Folder {});
            let request = Request {
                build_args: given.map(|it| (NAME.to_owned(), it.to_owned())).into_iter().collect(),
                times: BTreeMap::from(times),
                contexts: ["lib", "near"].map(folder).into(),
                ..Request::new(text)
            };
            let dockerfile = parse(text.as_bytes()).unwrap();
            let dated = dated(&request, &dockerfile).unwrap();
            assert_eq!(dated.build_args.get(NAME).map(String::as_str), want, "{text} {given:?}");
        };
        check("FROM scratch", None, None);
        check("FROM scratch", Some("5"), Some("5"));
        check("FROM scratch", Some("context"), Some("7"));
        check("FROM scratch", Some("lib"), Some("8"));
        check("FROM scratch", Some("near"), Some(""));
        check("FROM scratch", Some("other"), Some("other"));
        check("ARG SOURCE_DATE_EPOCH=context\nFROM scratch", None, Some("7"));
        check("ARG OF=lib\nARG SOURCE_DATE_EPOCH=$OF\nFROM scratch", None, Some("8"));
        check("ARG SOURCE_DATE_EPOCH=9\nFROM scratch", None, None);
        check("ARG SOURCE_DATE_EPOCH=9\nFROM scratch", Some("context"), Some("7"));
        check("FROM scratch\nARG SOURCE_DATE_EPOCH=context", None, None);
    }
}
