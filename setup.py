"""Build script for tools that still call it; all metadata stands in setup.cfg."""

from setuptools import setup

setup()
