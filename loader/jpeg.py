"""The JPEG codec: the only file that knows which library decodes.

A warning of libjpeg ("premature end of file", "corrupt data") is an error here: the library goes on and paints the
rest of the picture grey, and a network would learn from that.
"""

import base64
import ctypes
import functools
import hashlib
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import turbojpeg

from common.errors import BadImage, UsageError
from common.spec import STORED_SIZE
from loader.limits import check_jpeg

Rgb = npt.NDArray[np.uint8]  # height x width x 3

# What `encode` makes of a picture of the stored size, up to its data: JFIF header, two quantisation tables, frame
# header of 256 x 256 and three components, four Huffman tables, one scan of all components.
_AS_STORED = re.compile(
    rb"\xff\xd8\xff\xe0\0\x10.{14}(?:\xff\xdb\0\x43.{65}){2}\xff\xc0\0\x11\x08\x01\0\x01\0\x03.{9}"
    rb"(?:\xff\xc4\0\x1f.{29}\xff\xc4\0\xb5.{179}){2}\xff\xda\0\x0c\x03",
    re.DOTALL,
)

# A 48x48 picture, 4:2:0, of edges, gradients and noise: what a decoder makes of it tells decoders apart.
_PROBE = base64.b85decode(
    rb"|JeWF01!$>Nk#wx0RR9200961|JwjV00;&K2L=TQ2L}fU2?z=d6b%du3k(?&6Au&}8Xq1V8XO!TBrYc)A}k{u94I#_EHE)NG&CP4"
    rb"IXyTsJT5adGXL8ELjeg12@DGi7!3^=G9erxGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBW?b"
    rb"01*fPFaR(E0U`hb5di}c0sq7R9{>OW1pxs80RaI300000000010s{mE1_uZU3Jd?l0JRVR0s#X90t5pE1q1{D00Dgg0s{a95d{(<"
    rb"F+m0sQDFxnaTGFvk)a49Lb1UWQqk}vGh%Xr2?`b$7#SKRCMPH<Dl|1VH#j*uLqtVJM@UIZQ&d$}S6EqEV`OD!XJ~0^b98lfcX)Yv"
    rb"gM@{Khlq)al9QB`mY0~BnxdnmrKYE-sj9NGw6(UkxVgH*!^FkL$H>Xb($mz{*4NnC+Tr5k<mKk)=;`Y5^7Hid_V@Vt`v1fL9{~UZ"
    rb"0RaI40RaI40RR91000010s{mE1_uZU3Jd?l0JRYS0s#U91Oo&I1q1{D0Rndb0RjUN1O*{61`<J02Vrp&A~Jyp6he`qvB3!=Gg9ys"
    rb"Vsg<679=#`CGi&+85$-hC@Cs6Ha9pqIzvQ7Mn_0VN>fx-"
    rb"R##YAT4Q8oW@l(=YIAgTc6WGrdV+(5g@%WSiHeewl$Dm3n3<ZQqok##r>Lo_va__cwzs&sy28W6#m2|T$;#5x)YaD4*xB0R<K*S$"
    rb"=jiF`^7Hid_V@Vt`v2Mh3<CiG0ucid06zfqyH{HX$&>dW3}yJ|)1O-"
    rb"8H9NCDspcqVj4(TZBoHfm#Mkl5W@Cb8E~jwa*mUn+dnTf*8HJenyp5-xe!rD@S$<zl!|Li+r5Dc`^pwAn`(Ib0chK<h)aQ-FM-"
    rb"2t!*OA<&r4&#`=*uPnJRk6^9}#%c6|*rTqe-*^irG0F^sZ*-"
    rb"SCYov)>2WNVQ@*{cjCDyw5!ceQS(T3iI}iq=z4Maes$~NviQz(#n)DqZ+4>p0H1N&ne|$0cV+TEhcn9PVQ{d+H~#<x^lb~pk=vkI"
    rb"aILtI4n}_pTc00GY#e!P0UU4t02AJgC%~<72)Ja(zy*oud-"
    rb"{6R+P;aV6=+rCcMZIu7{^|Fde#r>UfL=vo7jI3{+?fZceR(peZ^b*Gc3#bQoN_Xkw1y9Ucj`DH!1mW4<w(<(zu56E^furU?QE{N8"
    rb"TWR`m3bz6wRnRXXU`$4=tas=UEzLB+M+pCwI%crZesM`qub3;VEHKi~j&;Ujx?er*8J&b#F2_K8LiF@%2`#@*Vw{+QSbgKQHk(KE"
    rb"k@)9>UVn0Str*7a3;81}YLE(Ba(w0KDDT_;HW_09|5TY7;cRYz$kF+i{E&+dq$5&T_=!d6cx9U%v8(b<^SgTfZxuP<6BX+1dW;FG"
    rb"Hc%ymKCpY}Rms%zj{0a0YSx4SBRFtLplRk&Co$cI5&80QGjRrVkCBQx{iERWXCOXQ0pZtMF^q7Q^he(1_$ikju&Aj-QYD&1r{p@X"
    rb"(BKvF4Kg1MlAd0Efk6r!cKft~xj@6gi~6C(t}YZ}u2``2J=iA3sbS`eV|f@a?FUA$ubb;BN{~1drFSt9~mx@fE>VP`kMp!Ol90g2"
    rb"r=eV)3EGCmboyUjG2Cb3(ld;NxBq{lwoaW7SmtYi(`yyM9L4iM+Fi<3>Lm{{SO1U(~;}q&E1$L$?dYbDG-lwu;8vH*2;aF_YH-ar"
    rb"}jII(?+Kz90)1%8chcXE^EByB{3t_Wm63>ceZaT(n~>JCX<Zo-"
    rb"2GrD#A+v7kaVQv;KH*W!>`Ws$Qkwss8|GWvUePoln5!d}ZRtw7g9-"
    rb"O68mQk0&QShuXJ1E8ziUZT+pNk_#SIX2|KEZfgs`J{etN;kAumm)iVp8+gY~wZE%t*IMMqOtJ^b1E}Mm>OV71yRwEC3hnJbhcD!|"
    rb"_w9W)=Gez1qsr<^o}9YQU+_==*#"
)


def decode(jpeg: bytes, out: Rgb | None = None, *, bgr: bool = False) -> Rgb:
    """Decode to height x width x 3 uint8, into `out` (C order) where given; `bgr` swaps the channels.

    Raises BadImage with libjpeg's reason, on its first warning too; where the size is not that of `out`; and, before
    any pixel is allocated, where the picture would cost more than `limits` allows.
    """
    height, width = (STORED_SIZE, STORED_SIZE) if _is_as_stored(jpeg) else size(jpeg)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    elif out.shape != (height, width, 3):
        raise BadImage(f"the picture is {width}x{height}, not {out.shape[1]}x{out.shape[0]}")
    _library().decode(jpeg, out, turbojpeg.TJPF_BGR if bgr else turbojpeg.TJPF_RGB)
    return out


def size(jpeg: bytes) -> tuple[int, int]:
    """Height and width in pixels, from the header alone. BadImage as `decode` raises it."""
    height, width = _library().size(jpeg)
    check_jpeg(jpeg, height, width)
    return height, width


def _is_as_stored(jpeg: bytes) -> bool:
    """Whether it is laid out as `encode` does it, so that its header need not be parsed twice.

    Such a picture needs no other check: it has one scan, and libjpeg refuses a second after one of all components.
    """
    return _AS_STORED.match(jpeg) is not None


def encode(rgb: Rgb, quality: int) -> bytes:
    """Encode height x width x 3 RGB uint8 as baseline JPEG with 4:2:0 chroma; quality 1 to 100."""
    jpeg: bytes = _codec().encode(
        rgb, quality=quality, pixel_format=turbojpeg.TJPF_RGB, jpeg_subsample=turbojpeg.TJSAMP_420
    )
    return jpeg


@functools.cache
def decoder_name() -> str:
    """The library's file name and a digest of what it decodes the probe to: equal names, equal pixels."""
    digest = hashlib.blake2b(decode(_PROBE).tobytes(), digest_size=4).hexdigest()
    return f"{_library_path().name} pixels {digest}"


class _Library:
    """libjpeg-turbo's own decoding calls.

    Around them PyTurboJPEG spends 10 to 20 microseconds in Python on each picture, beside the 250 that a picture of
    256x256 takes, and tells a warning only through Python's `warnings`.

    Each picture has a handle of its own, at a microsecond: a handle keeps the tables of the picture before, and one
    that lacks its own would be decoded with them, differently from process to process.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        handle, picture = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_ulong)
        library.tjInitDecompress.restype = handle
        library.tjDestroy.argtypes = (handle,)
        library.tjGetErrorStr2.argtypes, library.tjGetErrorStr2.restype = (handle,), ctypes.c_char_p
        library.tjDecompressHeader3.argtypes = (handle, *picture, *[ctypes.c_void_p] * 4)
        library.tjDecompress2.argtypes = (handle, *picture, ctypes.c_void_p, *[ctypes.c_int] * 5)
        self._calls = library

    def size(self, jpeg: bytes) -> tuple[int, int]:
        handle = self._calls.tjInitDecompress()
        width, height, chroma, colours = (ctypes.c_int() for _ in range(4))
        addresses = [ctypes.addressof(number) for number in (width, height, chroma, colours)]
        self._finish(handle, self._calls.tjDecompressHeader3(handle, jpeg, len(jpeg), *addresses))
        return height.value, width.value

    def decode(self, jpeg: bytes, out: Rgb, pixel_format: int) -> None:
        height, width, _ = out.shape
        handle = self._calls.tjInitDecompress()
        target = (out.ctypes.data, width, 3 * width, height, pixel_format)
        status = self._calls.tjDecompress2(handle, jpeg, len(jpeg), *target, turbojpeg.TJFLAG_STOPONWARNING)
        self._finish(handle, status)

    def _finish(self, handle: int, status: int) -> None:
        """Give up the handle; BadImage where the call before went wrong, or warned."""
        reason: bytes = b"" if status == 0 else self._calls.tjGetErrorStr2(handle)
        self._calls.tjDestroy(handle)
        if status != 0:
            raise BadImage(reason.decode(errors="replace"))


@functools.cache
def _library() -> _Library:
    return _Library(ctypes.CDLL(str(_library_path())))


@functools.cache
def _codec() -> turbojpeg.TurboJPEG:
    """PyTurboJPEG, which finds the library on every system, and encodes."""
    try:
        return turbojpeg.TurboJPEG()
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"libjpeg-turbo cannot be loaded ({error}); on Debian or Ubuntu: apt-get install libturbojpeg0"
        ) from None


def _library_path() -> Path:
    """Of the library that PyTurboJPEG has loaded; its name tells its version, such as libturbojpeg.so.0.2.0."""
    _codec()
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libturbojpeg" in line]
    assert mapped, "PyTurboJPEG has loaded a library of another name"
    return Path(mapped[0])
