"""README.md is nbs/index.ipynb: its markdown, its code, and what the code printed. Run this file to write it again."""
import posixpath, re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]

def from_root(text):
    "Links and images that are right in nbs/, made right in the folder above it"
    def fix(m):
        before, link = m.groups()
        if re.match(r"[a-z]+:|[#/]", link): return before + link
        return before + posixpath.normpath(posixpath.join("nbs", link))
    return re.sub(r'(\]\(|\b(?:src|href)=")([^)"\s]+)', fix, text)

def fenced(text, lang): return f"```{lang}\n{text.rstrip().lstrip(chr(10))}\n```"

def shown(output):
    "An output as markdown; a picture is left out, the notebook's text refers to its file in figures/"
    if output.output_type == "stream": return fenced(output.text, "text") if output.name == "stdout" else ""
    data = output.get("data", {})
    if "text/markdown" in data: return from_root(data["text/markdown"].strip())
    return "" if "image/png" in data else fenced(data.get("text/plain", ""), "text")

def render(nb):
    "The README of a notebook"
    parts = []
    for cell in nb.cells:
        marks, source = re.match(r"((?:#\|.*\n?)*)([\s\S]*)", cell.source).groups()
        if re.search(r"#\|\s*(hide|default_exp)\b", marks) or not source.strip(): continue
        if cell.cell_type == "markdown":
            parts.append(from_root(source.strip()))
            continue
        if not re.search(r"#\|\s*echo:\s*false\b", marks): parts.append(fenced(source, "python"))
        parts += map(shown, cell.outputs)
    return "\n\n".join(filter(None, parts)) + "\n"

def readme(): return render(nbformat.read(ROOT/"nbs"/"index.ipynb", as_version=4))

if __name__ == "__main__": (ROOT/"README.md").write_text(readme(), encoding="utf-8")
