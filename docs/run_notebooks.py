"""Execute the notebooks of `examples/notebooks/` and keep their outputs.

    make notebooks
    python docs/run_notebooks.py [FILE.ipynb ...]

The second line needs `pip install -e '.[test,notebooks]'`. Each notebook gets a process and an
empty folder of its own. What it writes to stderr is shown here and not kept, and a picture is kept
as JPEG where that is smaller, as it is for photographs.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parent.parent / "examples/notebooks"


def run(path: Path) -> None:
    """Execute a notebook in its place."""
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=None, record_timing=False, resources={"metadata": {"path": folder}}
        ).execute()
    notebook.metadata = metadata  # the kernel has added its version of Python
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if is_kept(output)]
            for output in cell.outputs:
                shrink(output.get("data", {}))
    nbformat.write(notebook, path)


def is_kept(output: Any) -> bool:
    """Show what was written to stderr; return whether it is anything else."""
    if output.get("name") != "stderr":
        return True
    sys.stderr.write(output.text)
    return False


def shrink(data: dict[str, Any]) -> None:
    """Put a JPEG in the place of a PNG, if it is smaller."""
    if "image/png" in data:
        jpeg = io.BytesIO()
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        picture.convert("RGB").save(jpeg, "JPEG", quality=88, optimize=True)
        encoded = base64.b64encode(jpeg.getvalue()).decode()
        if len(encoded) < len(data["image/png"]):
            del data["image/png"]
            data["image/jpeg"] = encoded


if __name__ == "__main__":
    for path in [Path(word) for word in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        sys.stderr.write(f"{path.name}\n")
        run(path)
