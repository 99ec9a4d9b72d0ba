"""XML blocks from scripts: good ones pass unchanged, bad ones are refused at once with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from siprec.metadata.values import NAMESPACE, OWN_NAMESPACE
from siprec.recording.xmlcheck import (
    MAX_FRAGMENT,
    FragmentError,
    check_extension,
    check_participant,
    extension,
    with_namespace,
)

GOOD_PARTICIPANTS = [
    '<nameID aor="sip:a@b"/>',
    '<nameID aor="sip:a@b"><name>R&amp;D</name></nameID>',
    '<nameID aor="sip:a@b"><name xml:lang="de">X</name></nameID><nameID aor="tel:+1"/>',
    '\n  <nameID aor="sip:a@b"/>\n  <e:dept xmlns:e="urn:e">sales <e:b>x</e:b></e:dept>\n',
]


@pytest.mark.parametrize("fragment", GOOD_PARTICIPANTS)
def test_a_participant_block_passes(fragment: str) -> None:
    assert check_participant(fragment) == fragment.strip()


@pytest.mark.parametrize(
    ("fragment", "reason"),
    [
        ("", "at least one <nameID"),
        ('<d xmlns="urn:e"/>', "at least one <nameID"),
        ('<d xmlns="urn:e"/><nameID aor="sip:a@b"/>', "after an extension"),
        ("<nameID/>", "attribute aor"),
        ('<nameID aor="sip:a@b" x="1"/>', "attribute aor and no other"),
        ('<nameID aor="sip:a@b"><name>a</name><name>b</name></nameID>', "at most one <name>"),
        ('<nameID aor="sip:a@b"><d xmlns="urn:e"/></nameID>', "must not stand inside"),
        ('<nameID aor="sip:a@b">text</nameID>', "text outside"),
        ('text<nameID aor="sip:a@b"/>', "text outside"),
        ('<nameID aor="sip:a@b"/><send>x</send>', "<send> found where"),
        ('<nameID aor="sip:a&b"/>', "not well-formed"),
        ('<nameID aor="sip:a@b"/></participant><participant>', "not well-formed"),
        ('</w><w><nameID aor="sip:a@b"/>', "not well-formed"),
        ('<nameID aor="sip:a@b">&xxe;</nameID>', "not well-formed"),
        ('<!DOCTYPE x><nameID aor="sip:a@b"/>', "not well-formed"),
        ('<?php x?><nameID aor="sip:a@b"/>', "not allowed"),
        ('<nameID aor="sip:a@b"/><e:d/>', "not well-formed"),
        ('<nameID aor="sip:a@b"/><d xmlns=""/>', "no namespace"),
        ('<nameID aor="sip:\udc80"/>', "no Unicode"),
    ],
)
def test_a_bad_participant_block_is_refused_with_the_reason(fragment: str, reason: str) -> None:
    with pytest.raises(FragmentError, match=reason):
        check_participant(fragment)


def test_the_line_of_the_mistake_is_named() -> None:
    with pytest.raises(FragmentError, match="line 3"):
        check_participant('<nameID aor="sip:a@b"/>\n\n<bogus/>')


def test_extensions_need_a_namespace_of_their_own() -> None:
    assert (
        check_extension('<q xmlns="urn:x">1</q> <r:s xmlns:r="urn:y"/>')
        == '<q xmlns="urn:x">1</q> <r:s xmlns:r="urn:y"/>'
    )
    with pytest.raises(FragmentError, match="namespace of its own"):
        check_extension("<queue>1</queue>")
    with pytest.raises(FragmentError, match="no namespace"):
        check_extension('<queue xmlns="">1</queue>')
    with pytest.raises(FragmentError, match="no element"):
        check_extension("  ")
    # Inside a foreign element anything goes (processContents lax).
    assert check_extension('<q xmlns="urn:x"><send/>text</q>')


OWN = f'xmlns="{OWN_NAMESPACE}"'


@pytest.mark.parametrize(
    ("fragment", "mended"),
    [
        ("<callcenterID> 17</callcenterID>", f"<callcenterID {OWN}> 17</callcenterID>"),
        ("<a/>", f"<a {OWN}/>"),
        ('<a x="1"><b>2</b></a>', f'<a {OWN} x="1"><b>2</b></a>'),
        ("<a>1</a>\n<b\n>2</b>", f"<a {OWN}>1</a>\n<b {OWN}\n>2</b>"),
        ("<Größe>ä</Größe><z>ü</z>", f"<Größe {OWN}>ä</Größe><z {OWN}>ü</z>"),
        ('<a xmlns="urn:x"/><b/>', f'<a xmlns="urn:x"/><b {OWN}/>'),
        ('<a xmlns:e="urn:x" e:y="1"><e:c/></a>', f'<a {OWN} xmlns:e="urn:x" e:y="1"><e:c/></a>'),
        ("<!-- <a> --><b><![CDATA[<c>]]></b>", f"<!-- <a> --><b {OWN}><![CDATA[<c>]]></b>"),
        ("AT&T & 17", f"<text {OWN}>AT&amp;T &amp; 17</text>"),
        (" plain \udce4 ", f"<text {OWN}>plain ä</text>"),
        ('<e:d xmlns:e="urn:e"/>', '<e:d xmlns:e="urn:e"/>'),
    ],
)
def test_what_has_no_namespace_gets_ours(fragment: str, mended: str) -> None:
    assert with_namespace(fragment) == mended
    assert check_extension(mended) == mended
    etree.fromstring(f'<w xmlns="{NAMESPACE}">{mended}</w>')


@pytest.mark.parametrize(
    ("fragment", "reason"),
    [
        ('<a xmlns="">1</a>', "no namespace"),
        (f'<a xmlns="{NAMESPACE}">1</a>', "namespace of its own"),
        ("<a>AT&T</a>", "not well-formed"),
        ("<a>\udce4</a>", "no Unicode"),
        ("<a>1</a></w><w>", "not well-formed"),
        ("<a>1</a> text", "text outside"),
        ("<a", "not well-formed"),
        ("<e:a/>", "not well-formed"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "not well-formed"),
        ("  ", "no element"),
        ("<a>" + "x" * MAX_FRAGMENT + "</a>", "at most"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_the_reason(fragment: str, reason: str) -> None:
    with pytest.raises(FragmentError, match=reason):
        check_extension(with_namespace(fragment))


@settings(max_examples=300)
@given(st.text(alphabet="<>/ab:=\"' &x\udce4\x00\n", max_size=40))
def test_mending_never_raises_and_what_passes_is_well_formed(fragment: str) -> None:
    mended = with_namespace(fragment)
    try:
        checked = check_extension(mended)
    except FragmentError:
        return
    etree.fromstring(f'<w xmlns="{NAMESPACE}">{checked}</w>')


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_the_helper_takes_any_text(text: str) -> None:
    made = extension("note", text + "\udcff&<\x00\ufffe", namespace="urn:example:a&b")
    element = etree.fromstring(check_extension(with_namespace(made)))
    assert element.tag == "{urn:example:a&b}note"
    assert (element.text or "").endswith("ÿ&<")


@pytest.mark.parametrize(
    ("name", "namespace"), [("a b", "urn:x"), ("", "urn:x"), ("1", "urn:x"), ("xmlA", "urn:x"), ("a>", "urn:x"),
                            ("a:b", "urn:x"), ("a", ""), ("a", NAMESPACE), ("a\n", "urn:x")]
)  # fmt: skip
def test_the_helper_refuses_what_is_no_extension(name: str, namespace: str) -> None:
    with pytest.raises(FragmentError):
        extension(name, "x", namespace=namespace)


def test_sizes_are_bounded() -> None:
    with pytest.raises(FragmentError, match="at most"):
        check_extension('<q xmlns="urn:x">' + "x" * MAX_FRAGMENT + "</q>")
    with pytest.raises(FragmentError, match="deeply nested"):
        check_extension('<q xmlns="urn:x">' + "<a>" * 40 + "</a>" * 40 + "</q>")
    with pytest.raises(FragmentError, match="too many"):
        check_extension('<q xmlns="urn:x">' + "<a/>" * 2000 + "</q>")


PIECES = [
    "<a>",
    "</a>",
    '<a xmlns="urn:e">',
    "</w>",
    "<w>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "x",
    "&lt;",
    "</session>",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_passes_never_leaves_its_place(fragment: str) -> None:
    try:
        checked = check_extension(fragment)
    except FragmentError:
        return
    root = etree.fromstring(f'<session xmlns="{NAMESPACE}">{checked}</session>'.encode())
    assert len(root)
    assert all(
        isinstance(child, etree._Comment) or etree.QName(child).namespace not in (None, NAMESPACE) for child in root
    )
