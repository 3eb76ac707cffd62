"""csv:FILE: the table's rules, its splits, and errors that name the line."""

import os
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
        "path,label,split\n1,b,Testing\n2,b,train\n3,a,Train\n4,a,val\n5,b,dev_set\n6,a,eval\n",
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


def test_rows_of_no_split_are_not_used(tmp_path):
    rows = ("1,a,train", "2,b,", "3,b,train", "4,,predict", "1,,Unlabeled")
    spec = write_table(tmp_path, "path,label,split\n" + "\n".join(rows))
    source = load_source(spec, "all")
    assert source.names == (f"{tmp_path}/1", f"{tmp_path}/3")
    (note,) = source.notes
    assert note.startswith("note: Not used: 3 rows of ")
    assert "(the first is line 3), whose split is empty or a word such as 'unlabelled'" in note


def test_addresses_of_files_are_paths(tmp_path):
    addresses = (f"file://{tmp_path}/a%20b%23.jpg", f"FILE://localhost{tmp_path}/1", "file:/x%E9")
    rows = "".join(f"{address},{label}\n" for address, label in zip(addresses, "aab", strict=True))
    source = load_source(write_table(tmp_path, "path,label\n" + rows), "all")
    assert source.names == (f"{tmp_path}/a b#.jpg", f"{tmp_path}/1", r"/x\xe9")


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
        ("path:label\n1:a\n", r"no column 'path', 'label'.*separated by one of ',', ';'"),
        ("path,label,label\n1,a,b\n", "more than once: 'label'"),
        ("path,label\n1,a\n2,b,c\n", "line 3: expected 2 fields, received 3"),
        ("path,label\n1,a\n\n2\n", "line 4: expected 2 fields, received 1"),
        ("path,label\n1,a\n2, \n", "line 3: the field 'label' is empty"),
        ("path,label\n,a\n", "line 2: the field 'path' is empty"),
        ("path,label,split\n1,a,\n2,b,\n", "no pictures to use: .* in all 2 rows.*remove that"),
        ("path,label,split\n1,a,fold1\n", "line 2: unknown split 'fold1'. Allowed: train, validat"),
        ("path,label\n1,a\nhttps://a.b/2,b\n", "line 3: 'https://a.b/2' is an address; only"),
        ("path,label\n1,a\nfile://host/2,b\n", "line 3: 'file://host/2' is an address; only"),
        ("path,label,,\n1,a,b,\n", "line 2: expected 2 fields, received 4"),
        ("path,label\n1,a\n2,b\n./1,b\n", "1' twice as 'a' and as 'b', on lines 2 and 4"),
        ("path,label,split\n1,a,train\n1,a,test\n", "1' twice, on lines 2 and 3"),
        ('path,label\n\n"1,a\n', "line 3 is not CSV"),
        ("path,label\n" + "a" * 200_000 + ",a\n", "line 2 is not CSV: field larger"),
        ("path,label\n" + "a" * 3_000_000, "line 2 is longer than 2,097,152 characters"),
        (bytes(1000), "line 1 has a NUL in it"),
        ("path,label\na\0b,a\n", "line 2 has a NUL in it"),
        ("path,label\n1,a\n".encode("utf-16-le"), "line 1 has a NUL in it"),
        (b"\xff\xfepat", "is not UTF-16 text"),
        (b"\xff\xd8\xff\xe0 a JPEG", "is not UTF-8 text"),
        ("path,label\n1,é\n".encode("latin-1"), "is not UTF-8 text .* at byte 13"),
        ("path,label\n1,a\n2,a\n", "only one class: 'a'"),
        ("path,label,split\n1,a,train\n2,b,train\n3,c,val\n", "'validation' that 'train' .*'c'"),
    ],
)
def test_table_errors(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_source(write_table(tmp_path, text), "all")


@pytest.mark.parametrize(
    "text",
    [
        'path, label\n"1.jpg", "cat"\n 2.jpg , dog \n',
        "path;label\n1.jpg;cat\n2.jpg;dog\n",
        "path\tlabel\r\n1.jpg\tcat\r\n2.jpg\tdog\r\n",
        "sep=:\nPath:Label\n1.jpg:cat\n2.jpg:dog\n",
        "sep=;\r\n\r\npath;label;;\r\n1.jpg;cat;;\r\n;;;\r\n2.jpg;dog\r\n",
        '"sep=;"\r\npath;label\r\n1.jpg;cat\r\n2.jpg;dog\r\n',
        "sep=|||\npath|label|\n1.jpg|cat|\n2.jpg|dog|\n",
        "path,label,note\n1.jpg,cat\n2.jpg,dog,,,\n",
        "a;b,path,label\n-,1.jpg,cat\n-,2.jpg,dog\n",
        *("path\tlabel\n1.jpg\tcat\n2.jpg\tdog\n".encode(code) for code in ("utf-8-sig", "utf-16")),
        b"\xfe\xff" + "path,label\n1.jpg,cat\n2.jpg,dog\n".encode("utf-16-be"),
        # A search of the names for each column would take minutes.
        pytest.param(
            ",".join(["path", "label", *map(str, range(10**5))])
            + "".join(f"\n{n}.jpg,{name}{',1' * 10**5}" for n, name in ((1, "cat"), (2, "dog"))),
            id="100,000 columns",
        ),
    ],
)
def test_tables_of_spreadsheets(tmp_path, text):
    source = load_source(write_table(tmp_path, text), "all")
    assert source.names == (f"{tmp_path}/1.jpg", f"{tmp_path}/2.jpg")
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 1]


def test_home_folder_and_backslashes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / r"b\2.jpg").touch()  # a name with a backslash in it
    rows = (r"~/1.jpg,a", r"~\in\3.jpg,b", r"a\1.jpg,a", r"b\2.jpg,b")
    write_table(tmp_path, "path,label\n" + "\n".join(rows))
    monkeypatch.chdir(tmp_path)
    expected = ("home/1.jpg", "home/in/3.jpg", "a/1.jpg", r"b\2.jpg")
    source = load_source("csv:table.csv", "all")
    assert tuple(map(os.path.abspath, source.names)) == tuple(f"{tmp_path}/{n}" for n in expected)
    os.makedirs("home")
    os.rename("table.csv", "home/table.csv")
    assert load_source("csv:~/table.csv", "all").names[0] == f"{tmp_path}/home/1.jpg"


def test_labels_are_compared_in_nfc(tmp_path):
    # The first "é" is one character, the second two.
    source = load_source(write_table(tmp_path, "path,label\n1,\u00e9\n2,e\u0301\n3,f\n"), "all")
    assert source.class_names == ("f", "\u00e9")
    assert source.labels.tolist() == [1, 1, 0]
    assert not source.notes


@pytest.mark.parametrize("prefix", ["csv", "tfrecord"])
def test_pipes_and_devices_are_not_read(tmp_path, prefix):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match=r"not a regular file\. Give a file"):
            load_source(f"{prefix}:{path}")
