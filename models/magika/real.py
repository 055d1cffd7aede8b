"""Real text files of known type: members of two wheels, told by their folder and suffix.

Sphinx 9.0.4 (BSD-2-Clause) brings JavaScript, CSS, LaTeX styles, catalogues of messages and TOML; ansible-core 2.19.14
(GPL-3.0) PowerShell, C#, YAML and JSON; both bring Python. Fetched, never committed.
"""

import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase

from models.fetch import Wheel, fetch_archive

SPHINX = Wheel(
    project="sphinx",
    version="9.0.4",
    sha256="5bebc595a5e943ea248b99c13814c1c5e10b3ece718976824ffa7959ff95fffb",
)
ANSIBLE = Wheel(
    project="ansible-core",
    version="2.19.14",
    sha256="d518d0e96fa75bedfe9b0a96d5b158aa712d092961824c115140c8677b88ff06",
)
PER_TYPE = 12
SMALLEST = 200
SOURCES = (
    (SPHINX, "sphinx/ext/*.py", "python"),
    (SPHINX, "sphinx/search/non-minified-js/*.js", "javascript"),
    (SPHINX, "sphinx/themes/*.css", "css"),
    (SPHINX, "sphinx/texinputs/*.sty", "latex"),
    (SPHINX, "sphinx/locale/*.po", "po"),
    (SPHINX, "sphinx/themes/*.toml", "toml"),
    (SPHINX, "sphinx/themes/*.png", "png"),
    (ANSIBLE, "ansible/modules/*.py", "python"),
    (ANSIBLE, "*.ps1", "powershell"),
    (ANSIBLE, "*.cs", "cs"),
    (ANSIBLE, "ansible/config/*.yml", "yaml"),
    (ANSIBLE, "ansible_test/*.yml", "yaml"),
    (ANSIBLE, "*.json", "json"),
)


def real_files() -> Iterator[tuple[str, bytes]]:
    """(type as magika calls it, content), at most PER_TYPE a source, none shorter than SMALLEST bytes."""
    for wheel, pattern, label in SOURCES:
        with zipfile.ZipFile(fetch_archive(wheel)) as contents:
            found = [
                info
                for info in contents.infolist()
                if fnmatchcase(info.filename, pattern) and info.file_size >= SMALLEST
            ]
            # Spread over the folders, and always the same ones.
            chosen = sorted(found, key=lambda info: info.filename)[:: max(1, len(found) // PER_TYPE)][:PER_TYPE]
            for info in chosen:
                yield label, contents.read(info)
