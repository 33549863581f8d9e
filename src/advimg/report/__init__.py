"""What a person looks at: reports see records and pictures, never tensors.

A report is one file: a function that takes records, pictures or points of a curve, and returns the bytes of a file, as
:mod:`.figure` does. Colours, type and lengths come from :mod:`.layout`; a report that matplotlib draws has its areas,
pictures, lists of classes and shortened names from :mod:`.drawing`, and draws inside ``own_style()``. Who writes files
(``writing`` for one attack, the commands for many) imports the function where it is called, since matplotlib takes a
while to import.
"""
