"""All there is to say of the package stands in pyproject.toml.

pip before 25.1 looks at `requires-python` last: it downloads TensorFlow for a Python that edgekit does not run on, and ends with
whichever dependency has no file for it. Without dependencies to look at, it says at once what is supported."""

import sys

import setuptools


class _Unsupported(setuptools.Distribution):
    def parse_config_files(self, *args, **kwargs):
        super().parse_config_files(*args, **kwargs)
        self.install_requires = self.metadata.install_requires = []


# pip asks for metadata alone before it compares; a wheel is the same whatever Python builds it.
supported = (3, 11) <= sys.version_info < (3, 14)
setuptools.setup(distclass=_Unsupported if not supported and "dist_info" in sys.argv else setuptools.Distribution)
