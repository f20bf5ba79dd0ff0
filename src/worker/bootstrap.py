"""What `python -c` runs in a worker: load the extension whose path is the only argument, and hand over to it."""
import sys
if sys.version_info < (3, 10):  # written so that any Python can read it
    sys.exit("%s is Python %d.%d; Python 3.10 or newer is needed: correct `python` in the policy" % ((sys.executable,) + sys.version_info[:2]))
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

loader = ExtensionFileLoader("portcullis_worker", sys.argv[1])
worker = sys.modules[loader.name] = module_from_spec(spec_from_loader(loader.name, loader))
loader.exec_module(worker)
del loader, ExtensionFileLoader, module_from_spec, spec_from_loader
worker.main()
