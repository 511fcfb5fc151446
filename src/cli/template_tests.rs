use super::*;

fn words(line: &[&str]) -> Vec<OsString> {
    line.iter().map(OsString::from).collect()
}

fn fill(template: &Template, item: &str) -> Vec<String> {
    let with = Filling { item: item.as_bytes(), number: 7, slot: 2 };
    template.fill(with).map(|w| w.into_string().unwrap()).collect()
}

#[test]
fn the_item_is_appended_when_no_placeholder_is_there() {
    let template = Template::direct(&words(&["echo", "-n"]), None);
    assert_eq!(fill(&template, "a b"), ["echo", "-n", "a b"]);
    assert_eq!(template.fixed_program(), Some("echo".into()));
}

#[test]
fn every_placeholder() {
    let template =
        Template::direct(&words(&["x", "{}", "{.}", "{/}", "{//}", "{/.}", "{#}", "{%}", "a{}b{}"]), None);
    assert!(template.needs_slot());
    assert_eq!(
        fill(&template, "d/e.tar.gz"),
        ["x", "d/e.tar.gz", "d/e.tar", "e.tar.gz", "d", "e.tar", "7", "2", "ad/e.tar.gzbd/e.tar.gz"]
    );
}

#[test]
fn an_item_is_not_searched_for_placeholders() {
    let template = Template::direct(&words(&["echo", "{}"]), None);
    assert_eq!(fill(&template, "{#}"), ["echo", "{#}"]);
}

#[test]
fn a_replacement_string_takes_the_place_of_the_braces() {
    let template = Template::direct(&words(&["echo", "%", "{}", "{#}"]), Some(&"%".into()));
    assert_eq!(fill(&template, "a"), ["echo", "a", "{}", "7"]);
}

#[test]
fn the_program_may_be_an_item() {
    let template = Template::direct(&words(&["./{}", "x"]), None);
    assert_eq!(template.fixed_program(), None);
    assert_eq!(fill(&template, "run"), ["./run", "x"]);
}

#[test]
fn parts_of_paths() {
    for (path, name, dir, no_ext) in [
        ("a", "a", ".", "a"),
        ("a/b.c", "b.c", "a", "a/b"),
        ("a.d/b", "b", "a.d", "a.d/b"),
        ("/a", "a", "/", "/a"),
        ("/", "/", "/", "/"),
        ("a/b/", "b", "a", "a/b/"),
        ("a//b", "b", "a", "a//b"),
        (".rc", ".rc", ".", ".rc"),
        ("d/.rc.bak", ".rc.bak", "d", "d/.rc"),
        ("", "", ".", ""),
    ] {
        assert_eq!(file_name(path.as_bytes()), name.as_bytes(), "name of {path}");
        assert_eq!(directory(path.as_bytes()), dir.as_bytes(), "directory of {path}");
        assert_eq!(stem(path.as_bytes()), no_ext.as_bytes(), "stem of {path}");
    }
}

#[test]
fn in_a_shell_the_item_is_a_parameter() {
    for (script, expected) in [
        ("echo {}", r#"echo "${1}""#),
        ("echo", r#"echo "${1}""#),
        ("echo '{}'", r#"echo ''"${1}"''"#),
        ("echo \"a {} b\"", "echo \"a ${1} b\""),
        ("echo \"$(cat {})\" {}", "echo \"$(cat \"${1}\")\" \"${1}\""),
        ("echo \\' {}", r#"echo \' "${1}""#),
        ("(cd {//} && ls {/})", r#"(cd "${1}" && ls "${2}")"#),
    ] {
        let template = Template::shell(&words(&[script]), None);
        let filled = fill(&template, "d/i");
        assert_eq!(filled[..2], ["sh", "-c"]);
        assert_eq!(filled[2], expected);
        assert_eq!(filled[3], "sh");
    }
    let two = Template::shell(&words(&["a {#} {}"]), None);
    assert_eq!(fill(&two, "i")[4..], ["7", "i"]);
}

#[test]
fn quoting_for_people_who_copy_it() {
    for (word, text) in [("a", "a"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$x", "'$x'")] {
        assert_eq!(quoted(word.as_bytes()), text.as_bytes());
    }
}
