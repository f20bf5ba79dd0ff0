"""What `python -c` runs in a worker: load the extension whose path is the only argument, and hand over to it."""
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

loader = ExtensionFileLoader("portcullis_worker", sys.argv[1])
worker = sys.modules[loader.name] = module_from_spec(spec_from_loader(loader.name, loader))
loader.exec_module(worker)
del loader, ExtensionFileLoader, module_from_spec, spec_from_loader
worker.main()
