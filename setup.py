"Packaging reads settings.ini, so that names, versions and requirements are written once."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lab = cfg['lab_requirements'].split()
dev = lab + cfg['dev_requirements'].split()

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], license='Apache-2.0', url=cfg['git_url'],
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Developers', 'Intended Audience :: Education']
                + [f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)],
    packages=find_packages(include=['learndet', 'learndet.*']), include_package_data=True,
    package_data={'learndet': ['configs/**/*.py', 'configs/*.py', 'visualization/*.js']},
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(),
    extras_require={'lab': lab, 'dev': dev},
    long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else cfg['description'],
    long_description_content_type='text/markdown',
    entry_points={'console_scripts': cfg['console_scripts'].split()}, zip_safe=False)
