import pytest

from vmcore.errors import UnitError
from vmcore.units import Bank, format_size, parse_ram, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096), ("0", 0), ("0x1000", 0x1000), ("0X1F", 0x1F), ("64K", 65536), ("64k", 65536),
        ("64KB", 65536),
        ("64KiB", 65536), ("1M", 1 << 20), ("512MiB", 512 << 20), ("1.5G", 3 << 29), ("0.25K", 256),
        ("2T", 2 << 40),
        ("1P", 1 << 50), (" 4G ", 4 << 30), ("0x10M", 16 << 20), ("100B", 100), ("1 G", 1 << 30), (123, 123),
        (0, 0),
    ],
)  # fmt: skip
def test_parse_size_reads_exact_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "-4G", "1.5.2G", "four", "1X", "0x", "1e9", "1,5G", "4 4", "1.G", ".5G", "0x1.8M", "٤"]
)
def test_parse_size_refuses_what_is_no_number(text):
    with pytest.raises(UnitError) as error:
        parse_size(text, "vmalloc")
    assert str(error.value) == f"vmalloc: found {text!r}, expected a number of bytes such as 64K, 1G or 0x100000"


@pytest.mark.parametrize("value", [True, 1.5, None, b"4G"])
def test_parse_size_refuses_other_types(value):
    with pytest.raises(
        UnitError, match=r"^size: found .*, expected a number of bytes such as 64K, 1G or 0x100000$"
    ):
        parse_size(value)


def test_parse_size_refuses_a_negative_number():
    with pytest.raises(UnitError, match=r"^size: found -5, expected a number of bytes that is not negative$"):
        parse_size(-5)


@pytest.mark.parametrize("text", ["0.3K", "1.5", "0.0001K", "1.0000000001G"])
def test_parse_size_refuses_a_fraction_of_a_byte(text):
    with pytest.raises(UnitError) as error:
        parse_size(text)
    assert str(error.value) == f"size: found {text!r}, which is not a whole number of bytes"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (4096, "4 KiB"),
        ((1 << 20) - 1, "1024 KiB"), (1 << 20, "1 MiB"), (0x077B3000, "119.7 MiB"), (0x06FFE000, "111.99 MiB"),
        (1 << 30, "1 GiB"), (10 << 30, "10 GiB"), (100 << 20, "100 MiB"), (1 << 40, "1 TiB"),
        (5 << 50, "5120 TiB"),
    ],
)  # fmt: skip
def test_format_size_takes_the_largest_unit(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "ram"),
    [
        ("4G", 4 << 30),
        (4096, 4096),
        ("0-1G", (Bank(0, 1 << 30),)),
        ("0-3G,4G-5G", (Bank(0, 3 << 30), Bank(4 << 30, 5 << 30))),
        (" 0x100000 - 2M , 2M - 3M ", (Bank(1 << 20, 2 << 20), Bank(2 << 20, 3 << 20))),
    ],
)
def test_parse_ram_reads_a_size_or_banks(text, ram):
    assert parse_ram(text) == ram


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1G", "ram: found '-1G', expected a number of bytes such as 64K, 1G or 0x100000"),
        ("many", "ram: found 'many', expected a number of bytes such as 64K, 1G or 0x100000"),
        ("0-x", "ram bank '0-x': found 'x', expected a number of bytes such as 64K, 1G or 0x100000"),
        ("0-1G,", "ram bank '': found '', expected a number of bytes such as 64K, 1G or 0x100000"),
        ("0-1G-2G", "ram bank '0-1G-2G': found '1G-2G', expected a number of bytes such as 64K, 1G or 0x100000"),
        ("1G-1G", "ram bank '1G-1G': ends at 0x40000000, expected one above 0x40000000"),
        ("2G-1G", "ram bank '2G-1G': ends at 0x40000000, expected one above 0x80000000"),
        ("0-2G,1G-3G", "ram bank '1G-3G': starts at 0x40000000, expected 0x80000000 or more"),
        ("4G-5G,0-3G", "ram bank '0-3G': starts at 0x0, expected 0x140000000 or more"),
    ],
)
def test_parse_ram_refuses_what_is_no_ram(text, message):
    with pytest.raises(UnitError) as error:
        parse_ram(text)
    assert str(error.value) == message


def test_parse_ram_refuses_a_negative_number():
    with pytest.raises(UnitError, match=r"^ram: found -1, expected a number of bytes that is not negative$"):
        parse_ram(-1)


def test_a_bank_says_where_it_is():
    assert str(Bank(0x100000, 0x40000000)) == "0x100000-0x40000000"
    assert Bank(0x100000, 0x40000000).size == 0x3FF00000


@pytest.mark.parametrize("read", [parse_size, parse_ram])
@pytest.mark.parametrize(
    ("value", "found", "expected"),
    [
        ("9" * 5000, f"'{'9' * 39}... (5,002 characters)", "a number of 40 digits at most"),
        ("1." + "0" * 5000, f"'1.{'0' * 37}... (5,004 characters)", "a number of 40 digits at most"),
        ("0x" + "f" * 5000, f"'0x{'f' * 37}... (5,004 characters)", "a number of 40 digits at most"),
        ("16385P", "'16385P'", "at most 0x10000000000000000 bytes"),
        (1 << 70, "0x400000000000000000", "at most 0x10000000000000000 bytes"),
        (10**5000, f"{10**5000:#x}"[:40] + "... (4,155 characters)", "at most 0x10000000000000000 bytes"),
        (
            -(10**5000),
            f"{-(10**5000):#x}"[:40] + "... (4,156 characters)",
            "a number of bytes that is not negative",
        ),
    ],
    ids=["decimal", "fraction", "hexadecimal", "pebibytes", "int", "long int", "long negative int"],
)  # fmt: skip
def test_a_number_that_no_machine_has(read, value, found, expected):
    with pytest.raises(UnitError) as error:
        read(value)
    assert str(error.value).split(": ", 1)[1] == f"found {found}, expected {expected}"


def test_the_largest_size():
    assert parse_size("16384P") == parse_size(1 << 64) == 1 << 64
    assert format_size(1 << 64) == "16777216 TiB"


def test_a_bank_with_a_long_text():
    with pytest.raises(UnitError) as error:
        parse_ram("-" * 10000)
    assert len(str(error.value)) < 300
