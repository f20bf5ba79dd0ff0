"""What an interpreter is asked before it runs an application: who it is and where its parts are, a line each. Any Python can read this, 2.7 too."""
import sys
implementation = getattr(getattr(sys, "implementation", None), "name", "python")
lines = ["portcullis", ".".join([str(number) for number in sys.version_info[:3]]), implementation, sys.executable or "", sys.prefix, getattr(sys, "base_prefix", sys.prefix), getattr(sys, "base_exec_prefix", sys.prefix)] + sys.path
text = "\n".join(lines)
if sys.version_info[0] > 2:
    text = text.encode(sys.getfilesystemencoding(), "surrogateescape")
getattr(sys.stdout, "buffer", sys.stdout).write(text)
