"""What is the same on every page? The frame with its style, and the few pieces of markup that all pages use."""

from collections.abc import Iterable, Sequence
from html import escape as _escape

STYLE = """
:root{color-scheme:light dark;--bg:#fdfdfc;--panel:#f4f5f7;--line:#d9dce1;--text:#1d2125;--soft:#5c636e;--link:#0b62c4;
--good:#17724a;--good-bg:#e3f5ea;--warn:#8f4a00;--warn-bg:#fdf0d5;--bad:#b3202a;--bad-bg:#fde6e6;--blue:#3d7fd1;--violet:#7a5bc7}
@media (prefers-color-scheme:dark){:root{--bg:#121417;--panel:#1b1e23;--line:#343a42;--text:#e6e8eb;--soft:#9aa3af;--link:#7ab8ff;
--good:#5ad19a;--good-bg:#12301f;--warn:#f2b950;--warn-bg:#37290d;--bad:#ff8085;--bad-bg:#421a1e;--blue:#5f9fe8;--violet:#a68bea}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:0 16px 64px;background:var(--bg);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
"DejaVu Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:1.55rem;line-height:1.2;margin:28px 0 10px}h2{font-size:1.15rem;margin:36px 0 8px}h3{font-size:1rem;margin:20px 0 6px}
p{margin:6px 0}a{color:var(--link)}.soft{color:var(--soft)}small{font-size:.82rem}
code,pre,.mono{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.82rem}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;overflow:auto;margin:8px 0;max-height:70vh}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.88rem;margin:12px 0}
.banner{border:1px solid;border-left-width:6px;border-radius:6px;padding:10px 14px;margin:12px 0}
.banner strong{font-size:1.1rem}.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.banner.good{background:var(--good-bg)}.banner.warn{background:var(--warn-bg)}.banner.bad{background:var(--bad-bg)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(118px,1fr));gap:8px;margin:10px 0}
.facts div{background:var(--panel);border-radius:6px;padding:7px 11px}.facts b{display:block;font-size:1.02rem;font-variant-numeric:tabular-nums}
.facts span{color:var(--soft);font-size:.8rem}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:8px 0}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:5px 10px;border-top:1px solid var(--line);vertical-align:top}
thead th{border-top:0;background:var(--panel);font-weight:600;white-space:nowrap}tbody:first-child tr:first-child>*{border-top:0}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.w{white-space:nowrap}
details{border:1px solid var(--line);border-radius:6px;padding:0 12px;margin:8px 0}summary{cursor:pointer;padding:8px 0;font-weight:600}
details[open]{padding-bottom:10px}svg{display:block}
.key{display:flex;flex-wrap:wrap;gap:2px 18px;color:var(--soft);font-size:.84rem;margin:6px 0}
.key i{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:6px;vertical-align:-1px}
@media (max-width:640px){body{padding:0 10px 48px;font-size:14px}h1{font-size:1.3rem}.facts{grid-template-columns:repeat(2,1fr)}th,td{padding:5px 7px}}
@media print{body{max-width:none}pre{max-height:none;white-space:pre-wrap}}
"""
WORD_MAX = 48
NOTHING_FROM_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def escape(value: object) -> str:
    return _escape(str(value), quote=True)


def page(title: str, body: Iterable[str], style: str = "", script: str = "") -> str:
    """A whole document."""
    return "\n".join([
        '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{NOTHING_FROM_OUTSIDE}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', '<meta name="color-scheme" content="light dark">',
        f'<title>{escape(title)}</title>', f'<style>{STYLE}{style}</style>', '</head>', '<body>', *body,
        *([f'<script>{script}</script>'] if script else []), '</body>', '</html>', ''])


def banner(kind: str, head: str, text: str = "") -> str:
    """`kind`: good, warn or bad; the words say the same as the colour."""
    return f'<div class="banner {kind}" role="status"><strong>{escape(head)}</strong>{f"<p>{escape(text)}</p>" if text else ""}</div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Small boxes: a figure above its name."""
    return '<div class="facts">' + "".join(
        f"<div><b>{escape(number(value))}</b><span>{escape(name)}</span></div>" for name, value in pairs) + "</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, of: str) -> str:
    """A table of plain values; numbers to the right. `of` names it for a screen reader."""
    rows = list(rows)
    numeric = {place for place in range(len(head)) if rows and all(isinstance(row[place], (int, float)) for row in rows)}
    classes = [" class=n" if place in numeric else "" for place in range(len(head))]
    lines = [f'<div class="scroll"><table aria-label="{escape(of)}"><thead><tr>',
             *(f"<th{each}>{escape(name)}</th>" for each, name in zip(classes, head, strict=True)), "</tr></thead><tbody>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td{each or _word(value)}>{escape(number(value))}</td>" for each, value in zip(classes, row, strict=True)) + "</tr>")
    return "".join([*lines, "</tbody></table></div>"])


def _word(value: object) -> str:
    """A name is not broken at its hyphens."""
    return " class=w" if isinstance(value, str) and len(value) <= WORD_MAX and " " not in value else ""


def bullets(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def key(*entries: tuple[str, str]) -> str:
    """(colour, words) of what a chart shows."""
    return '<div class="key">' + "".join(f'<span><i style="background:{colour}"></i>{escape(words)}</span>' for colour, words in entries) + "</div>"


def number(value: object) -> object:
    """Thousands apart; anything but a number stays as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
