"""pyelftools reads exported cores: banks as segments, and the note."""

import pytest

elffile = pytest.importorskip(
    "elftools.elf.elffile", reason="pyelftools is not installed (pip install vmcore[interop])"
)


def test_segments_are_the_banks_and_the_note_is_read(kernel, tmp_path):
    k = kernel("x86_64", ram="0-64M,5G-5248M")
    address = k.vmalloc(8192)
    k.vwrite(address, b"x" * 8192)
    k.save(tmp_path / "ram.elf")
    with (tmp_path / "ram.elf").open("rb") as file:
        core = elffile.ELFFile(file)
        assert (core["e_type"], core["e_machine"], core.elfclass) == ("ET_CORE", "EM_X86_64", 64)
        notes, *loads = core.iter_segments()
        assert [(s["p_paddr"], s["p_filesz"], s["p_memsz"]) for s in loads] == [
            (bank.start, bank.size, bank.size) for bank in k.layout.banks
        ]
        assert [(n["n_name"], n["n_descdata"][:10]) for n in notes.iter_notes()] == [("VMCOREINFO", b"OSRELEASE=")]
        frame = k.vmalloc_to_pfn(address)
        (load,) = [s for s in loads if s["p_paddr"] <= frame << 12 < s["p_paddr"] + s["p_filesz"]]
        file.seek(load["p_offset"] + (frame << 12) - load["p_paddr"])
        assert file.read(4096) == b"x" * 4096
