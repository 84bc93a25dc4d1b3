"""Tells files that are not images, which are in most collections of photographs, from damaged images.

A file is skipped if a system or a camera stores files of this name next to photographs, or if neither its name nor its
content is an image's. A web page named `.jpg` is a damaged image, a photograph named `.dat` an image.
"""

import re

from alexnet.data.decode import begins_as_image

READ_ENDINGS = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "png", "apng", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm",
    "pbm", "pnm", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "jpm", "avif", "avifs", "heic", "heics", "heif", "heifs",
    "hif"
))  # fmt: skip
"""Endings of names, in lower case, of the formats that are read."""
RAW_ENDINGS = frozenset((
    "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "gpr", "iiq", "k25", "kdc", "mef", "mos", "mrw",
    "nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f"
))  # fmt: skip
"""Endings of the raw files of cameras."""
OTHER_IMAGE_ENDINGS = RAW_ENDINGS | frozenset((
    "ai", "cdr", "dcm", "dicom", "dds", "djvu", "emf", "eps", "exr", "fit", "fits", "fpx", "hdr", "ico", "jng", "jxl",
    "jxr", "nii", "pcx", "pict", "psb", "psd", "qoi", "sgi", "svg", "svgz", "tga", "wdp", "wmf", "xcf"
))  # fmt: skip
"""Endings of images that are not read; such a file is refused and not skipped, as is a damaged one."""
KINDS = {
    "aae": "edits that an iPhone stores next to a photograph",
    "xmp": "edits that a program stores next to a photograph",
    "ctg": "a camera's catalog",
    **dict.fromkeys(("dop", "pp3", "cos", "on1", "lrcat", "lrdata"), "settings of a photo editor"),
    **dict.fromkeys(
        ("xml", "json", "jsonl", "yaml", "yml", "csv", "tsv", "xls", "xlsx", "ini", "log"), "data about images"
    ),
    **dict.fromkeys(("txt", "md", "rst", "rtf", "doc", "docx", "pdf", "html", "htm", "url", "lnk"), "text or a link"),
    **dict.fromkeys(("mov", "mp4", "m4v", "avi", "mkv", "webm", "mpg", "mpeg", "3gp", "mts", "m2ts", "wmv"), "a video"),
    **dict.fromkeys(("wav", "mp3", "m4a", "aac", "ogg", "flac"), "a sound"),
    **dict.fromkeys(("npy", "npz", "mat", "h5", "pkl", "pt", "pth", "safetensors"), "an array"),
    **dict.fromkeys(("py", "ipynb", "sh", "bat", "exe", "dll"), "a program"),
    **dict.fromkeys(("tar", "zip", "gz", "tgz", "7z", "rar"), "an archive"),
    **dict.fromkeys(("md5", "sha1", "sha256", "sha512", "sfv", "par2"), "checksums"),
    "db": "a database",
}
"""What a file that is not an image is, by its ending in lower case."""
TEXT_NAME = re.compile(r"readme|licen[sc]e|copying|changelog|makefile|md5sums?|sha\d+sums?")
"""Files without an ending, in lower case, that are not images."""
START_BYTES = 4096
"""Enough of a file to recognize any format that is read."""
SYSTEM_NAMES = {
    **dict.fromkeys((".ds_store", "icon\r"), "a file that macOS keeps"),
    **dict.fromkeys(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"), "a file that Windows keeps"),
    **dict.fromkeys(("$recycle.bin", "system volume information"), "a folder that Windows keeps"),
    "__macosx": "a folder that macOS keeps",
    "@eadir": "a folder of thumbnails that a Synology NAS keeps",
    **dict.fromkeys(("#recycle", "#snapshot", "@recycle", "@recently-snapshot"), "a folder that a NAS keeps"),
    "lost+found": "a folder that the file system keeps",
}
"""Files and folders, in lower case, that a system stores next to photographs; some contain images."""


def not_an_image(path: str, content: bytes | None = None) -> str | None:
    """Why a file is skipped as no image; None if it is one, sound or damaged.

    Args:
        path: of a file or a folder in the source, with `/` between its parts.
        content: of the file, or its first `START_BYTES`; None decides by the name alone.
    """
    kind = _kept_by_a_system(path)
    if kind is None and content is not None and not has_image_name(path) and not begins_as_image(content):
        ending = file_ending(path)
        kind = f"{KINDS.get(ending, 'neither its name nor its content is one')} (.{ending})" if ending else "text"
    return f"not an image: {kind}" if kind else None


def has_image_name(path: str) -> bool:
    """Whether a file that begins like no image is a damaged one. A name without an ending may be an image's."""
    ending = file_ending(path)
    if not ending or ending.isdigit():
        name = path.rpartition("/")[2].lower()
        return name not in SYSTEM_NAMES and TEXT_NAME.fullmatch(name) is None
    return ending in READ_ENDINGS or ending in OTHER_IMAGE_ENDINGS


def may_be_image(path: str) -> bool:
    """Whether a file is an image as far as its name tells: its ending is not one of other files."""
    return has_image_name(path) or file_ending(path) not in ("", *KINDS)


def file_ending(path: str) -> str:
    """The ending of a file's name in lower case and without its dot, such as `jpg`; empty if it has none.

    Names that a web server was asked for, such as `1.jpg?width=300`, count without the question.
    """
    stem, _, ending = path.rpartition("/")[2].partition("?")[0].rpartition(".")
    return ending.lower() if stem else ""


def _kept_by_a_system(path: str) -> str | None:
    for part in path.split("/"):
        if kind := SYSTEM_NAMES.get(part.lower()):
            return kind
        if part.lower().endswith(".lrdata"):
            return "previews that Lightroom keeps"
        if part.startswith("._"):
            return "data that macOS stores next to a file"
        if part.startswith(".") and part not in (".", ".."):
            return "a hidden file or folder"
    return "a thumbnail that a camera keeps (.thm)" if file_ending(path) == "thm" else None
