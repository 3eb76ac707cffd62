"""csv:FILE: the table's rules, its splits, and errors that name the line."""

from pathlib import Path

import pytest

from keras_effnetv2.data.sources import load_source


def write_table(folder: Path, text: str | bytes) -> str:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"csv:{path}"


def test_paths_are_relative_to_the_table(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / 'in/a, "1"\n.jpg').write_bytes(b"first")
    (tmp_path / "b.jpg").write_bytes(b"second")
    spec = write_table(
        tmp_path,
        "\ufeffLabel, path ,extra\r\n"  # byte order mark, any case, other columns
        'dog,"in/a, ""1""\n.jpg",x\r\n'
        "\r\n"
        f"çat,{tmp_path}/b.jpg,\r\n",
    )
    source = load_source(spec, "all")
    assert source.class_names == ("dog", "çat")
    assert source.labels.tolist() == [0, 1]
    assert source.names == (f'{tmp_path}/in/a, "1"\n.jpg', f"{tmp_path}/b.jpg")
    assert [data for data, _, _ in source.dataset().as_numpy_iterator()] == [b"first", b"second"]


def test_split_column(tmp_path):
    spec = write_table(
        tmp_path,
        "path,label,split\n1,b,test\n2,b,train\n3,a,Train\n4,a,val\n5,b,valid\n6,a,validation\n",
    )
    found = {
        split: [Path(name).name for name in load_source(spec, split).names]
        for split in ("train", "validation", "test", "all")
    }
    assert found == {
        "train": ["2", "3"],
        "validation": ["4", "5", "6"],
        "test": ["1"],
        "all": ["2", "3", "4", "5", "6", "1"],
    }
    assert load_source(spec, "train").labels.tolist() == [1, 0]


def test_unknown_class_names_its_lines(tmp_path):
    spec = write_table(tmp_path, 'path,label\n1,cat\n"2\n",dgo\n3,cat\n4,dgo\n')
    # The picture on line 3 has a line break in its name, so that the next stands on line 5.
    with pytest.raises(ValueError, match=r"classes that are not .*\n  'dgo': line 3, line 6$"):
        load_source(spec, "all", class_names=["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no pictures"),
        ("path,label\n", "lists no pictures"),
        ("file,label\n1,a\n", r"no column 'path'.*Received: 'file,label'"),
        ("path;label\n1;a\n", r"no column 'path', 'label'.*separated by commas"),
        ("path,label,label\n1,a,b\n", "more than once: 'label'"),
        ("path,label\n1,a\n2,b,c\n", "line 3: expected 2 fields, received 3"),
        ("path,label\n1,a\n\n2\n", "line 4: expected 2 fields, received 1"),
        ("path,label\n1,a\n2, \n", "line 3: the field 'label' is empty"),
        ("path,label\n,a\n", "line 2: the field 'path' is empty"),
        ("path,label,split\n1,a,\n", "line 2: the field 'split' is empty"),
        ("path,label,split\n1,a,dev\n", "line 2: unknown split 'dev'. Allowed: train, validation"),
        ("path,label\n1,a\n2,b\n./1,b\n", "1' twice as 'a' and as 'b', on lines 2 and 4"),
        ("path,label,split\n1,a,train\n1,a,test\n", "1' twice, on lines 2 and 3"),
        ('path,label\n"1,a\n', "is not CSV"),
        ("path,label\n1,é\n".encode("latin-1"), "is not UTF-8 text .* at byte 13"),
        ("path,label\n1,a\n2,a\n", "one class only: 'a'"),
        ("path,label,split\n1,a,train\n2,b,train\n3,c,val\n", "'validation' that 'train' .*'c'"),
    ],
)
def test_table_errors(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_source(write_table(tmp_path, text), "all")
