"""Archives for src/storage/archive_test.cc, honest and hostile, made by Python's tarfile and zipfile: testdata/archives."""

import argparse
import gzip
import io
import pathlib
import random
import stat
import tarfile
import zipfile

TIME = 1_700_000_000


def tar(path, entries, format=tarfile.PAX_FORMAT):
    """entries: (name, content) for a file, or (name, a dict of TarInfo's fields)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mtime = TIME
            if isinstance(content, dict):
                for field, value in content.items():
                    setattr(info, field, value)
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=TIME))


def zip_file(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, content)


FILE = stat.S_IFREG | 0o644


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=".", help="the repository's root")
    out = parser.parse_args().output / "testdata/archives"
    out.mkdir(parents=True, exist_ok=True)
    ok = [("config.json", b"{}"), ("code", {"type": tarfile.DIRTYPE, "mode": 0o755}), ("code/model.py", b"print(1)\n"), ("run.sh", b"#!/bin/sh\n")]

    tar(out / "flat.tar.gz", ok)
    tar(out / "dotted.tar.gz", [("./", {"type": tarfile.DIRTYPE})] + [("./" + name, content) for name, content in ok])
    tar(out / "wrapped.tar.gz", [("model/" + name, content) for name, content in ok])
    tar(out / "gnu.tar.gz", [("ünï/模型.txt", b"x"), ("long/" * 30 + "name", b"y")], tarfile.GNU_FORMAT)
    tar(out / "pax.tar.gz", [("ünï/模型.txt", b"x"), ("long/" * 30 + "name", b"y")])
    zip_file(out / "flat.zip", [("config.json", b"{}", FILE), ("code/model.py", b"print(1)\n", FILE), ("run.sh", b"#!/bin/sh\n", FILE)])
    zip_file(out / "wrapped.zip", [("model/", b"", stat.S_IFDIR | 0o755), ("model/config.json", b"{}", FILE), ("model/code/model.py", b"print(1)\n", FILE), ("model/run.sh", b"#!/bin/sh\n", FILE)])

    good = [("config.json", b"{}")]
    for name, entry in {
        "parent": ("../evil", b"x"), "parent-inside": ("a/../../evil", b"x"), "absolute": ("/tmp/evil", b"x"), "backslash": ("..\\evil", b"x"), "drive": ("C:evil", b"x"),
        "symlink": ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), "hardlink": ("link", {"type": tarfile.LNKTYPE, "linkname": "config.json"}),
        "char-device": ("dev", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}), "block-device": ("dev", {"type": tarfile.BLKTYPE, "devmajor": 8}), "fifo": ("fifo", {"type": tarfile.FIFOTYPE}),
        "twice": ("./config.json", b"other"), "file-as-folder": ("config.json/below", b"x"), "folder-over-file": ("config.json", {"type": tarfile.DIRTYPE}),
    }.items():  # fmt: skip
        tar(out / f"hostile-{name}.tar.gz", [*good, entry])
    # A link, and then a file written through it.
    tar(out / "hostile-through-link.tar.gz", [("d", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}), ("d/evil", b"x")])
    zip_file(out / "hostile-parent.zip", [("config.json", b"{}", FILE), ("../evil", b"x", FILE)])
    zip_file(out / "hostile-absolute.zip", [("/tmp/evil", b"x", FILE)])
    zip_file(out / "hostile-backslash.zip", [("a\\..\\..\\evil", b"x", FILE)])
    zip_file(out / "hostile-symlink.zip", [("link", b"/etc/passwd", stat.S_IFLNK | 0o777)])

    tar(out / "zeros.tar.gz", [("zeros", bytes(1 << 20))])
    zip_file(out / "zeros.zip", [("zeros", bytes(1 << 20), FILE)])
    tar(out / "cut.tar.gz", [("config.json", b"{}"), ("weights", random.Random(1).randbytes(30_000))])
    (out / "cut.tar.gz").write_bytes((out / "cut.tar.gz").read_bytes()[:20_000])
    print(f"testdata/archives: {len(list(out.iterdir()))} archives")


main()
