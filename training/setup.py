from setuptools import find_packages, setup

PACKAGE = "dual_nav_training"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + PACKAGE]),
        ("share/" + PACKAGE, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    # colcon runs a package's tests with pytest when it finds this.
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    maintainer="Dual Nav maintainers",
    maintainer_email="maintainers@dual-nav.dev",
    description="Checkpoints, losses and training.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "make_checkpoint = dual_nav_training.random_checkpoint:main",
            "add_system1 = dual_nav_training.add_system1:main",
            "train = dual_nav_training.train:main",
        ]
    },
)
