"""The x86 family: i386, i386 with PAE, and x86_64."""
